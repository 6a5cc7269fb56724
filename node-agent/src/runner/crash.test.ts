import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { ResultClaims, SliceSpec, TaskClaims } from "@hostler/shared/tasks.ts";
import { beforeAll, describe, expect, test } from "vitest";
import { makeMockDriver } from "../drivers/mock/mock-driver.ts";
import { makeSimulatedGpus } from "../gpus/simulated.ts";
import { makeHostLedger } from "../journal/host-ledger.ts";
import { makeJournalStore } from "../journal/journal-file.ts";
import { makeLog } from "../log.ts";
import type { NodeIdentity } from "../ports/node-keys.ts";
import { provisionSlice } from "../tasks/provision-slice.ts";
import { releaseSlice } from "../tasks/release-slice.ts";
import { removeSlice } from "../tasks/remove-slice.ts";
import { repairSlice } from "../tasks/repair-slice.ts";
import { CrashError, makeMemoryFiles } from "../testing/memory-files.ts";
import { makeHighWaterMark } from "./high-water-mark.ts";
import { makeOutbox } from "./outbox.ts";
import { makeRunner } from "./runner.ts";

/**
 * The agent is killed at every single write that it makes, on the way up and on the way down, with the write lost or torn. The
 * next agent on the same disk gets the task again, as the control plane would hand it out, and must bring it to its end.
 */
const log = makeLog("silent");
const GPU_PLAN = { kind: "h100", count: 2 } as const;
const NODE_ID = "node_01900000-0000-7000-8000-000000000001";

const spec: SliceSpec = {
  allocationId: newId("allocation", systemClock),
  generation: 1,
  driver: "mock",
  hostName: "crash",
  vcpus: 1,
  memoryMib: 128,
  diskGib: 1,
  image: { name: "tiny", sha256: "a".repeat(64), sizeBytes: 4, format: "raw" },
  gpuUuids: [],
  sshPublicKeys: [],
  userData: null,
  labels: {},
};
const reference = { allocationId: spec.allocationId, generation: 1, driver: "mock" } as const;

interface Disk {
  readonly texts: Map<string, string>;
  /** Which write kills the process; null lets it live. */
  readonly killAt: { readonly write: number; readonly torn: boolean } | null;
}

let seq = 0;
/** One life of the agent on a disk: takes one task, and ends with its result or with its death. */
async function live(
  disk: Disk,
  kind: TaskClaims["kind"],
  params: unknown,
): Promise<{ readonly result: ResultClaims | null; readonly writes: number }> {
  let writes = 0;
  let isDead = false;
  const died = Promise.withResolvers<null>();
  const files = makeMemoryFiles(disk.texts, () => {
    writes += 1;
    if (!isDead && writes !== disk.killAt?.write) return;
    const torn = !isDead && disk.killAt?.torn === true;
    isDead = true;
    died.resolve(null);
    throw new CrashError(torn);
  });
  const gpus = makeSimulatedGpus({ files, clock: systemClock }, GPU_PLAN, "seed");
  const [gpu] = await gpus.list(new AbortController().signal);
  const deps = {
    journals: makeJournalStore({ files, clock: systemClock }),
    ledger: makeHostLedger(files),
    drivers: new Map([["mock", makeMockDriver({ files, clock: systemClock })]]),
    gpus,
    clock: systemClock,
    random: () => 0,
    log,
    availableMemoryMib: async () => 4096,
  };
  const delivered = Promise.withResolvers<ResultClaims>();
  const identity: NodeIdentity = {
    nodeId: NODE_ID,
    verifyTask: async (jws) => JSON.parse(jws) as TaskClaims,
    signResult: async (claims) => JSON.stringify(claims),
  };
  const runner = makeRunner({
    ...deps,
    identity,
    controlPlane: {
      sendProgress: async () => ({ leaseTtlMs: 30_000, cancel: false }),
      sendResult: async ({ resultJws }) => {
        if (!isDead) delivered.resolve(JSON.parse(resultJws) as ResultClaims);
      },
    },
    handlers: {
      "slice.vm_provision": async (task, wanted) => await provisionSlice(deps, task, wanted),
      "slice.vm_release": async (task, wanted) => await releaseSlice(deps, task, wanted),
      "slice.vm_repair": async (task, wanted) => await repairSlice(deps, task, wanted),
      "slice.remove": async (task, wanted) => await removeSlice(deps, task, wanted),
      "terminal.open": async () => await Promise.reject(new Error("not in this test")),
    },
    highWaterMark: makeHighWaterMark(files),
    outbox: makeOutbox(files),
  });
  seq += 1;
  const withGpu = kind === "slice.vm_provision" ? { ...(params as SliceSpec), gpuUuids: [gpu?.uuid ?? ""] } : params;
  const claims = {
    jti: newId("task", systemClock),
    kind,
    fence: String(seq),
    seq,
    attempt: 1,
    pdig: "digest",
    params: JSON.stringify(withGpu),
  };
  await runner.start().catch(() => undefined);
  const sentAtMs = systemClock.monotonicMs();
  if (!isDead) await runner.take({ jws: JSON.stringify(claims), sentAtMs, leaseTtlMs: 30_000 });
  const result = await Promise.race([delivered.promise, died.promise]);
  // The delivered file is removed after the acceptance; a dead process does nothing more.
  if (result !== null) await systemClock.sleep(1, new AbortController().signal);
  void runner.stop(0).catch(() => undefined);
  return { result, writes };
}

function leftovers(texts: ReadonlyMap<string, string>): string[] {
  const names = [...texts.keys()].filter((path) => path.startsWith("mock/") || path.startsWith("journal/"));
  const owners = Object.keys(
    (JSON.parse(texts.get("simulated-gpus.json") ?? "{}") as { owners?: object }).owners ?? {},
  );
  const rows = Object.keys(JSON.parse(texts.get("ledger.json") ?? "{}") as object);
  return [...names, ...owners, ...rows];
}

let writesUp = 0;
let writesDown = 0;
beforeAll(async () => {
  const texts = new Map<string, string>();
  writesUp = (await live({ texts, killAt: null }, "slice.vm_provision", spec)).writes;
  writesDown = (await live({ texts, killAt: null }, "slice.vm_release", reference)).writes;
  expect(leftovers(texts)).toEqual([]);
});

describe.each([
  ["lost", false],
  ["torn", true],
])("an agent killed at any write, the write %s,", (_, torn) => {
  test("builds the slice in its next life, and it comes down clean", async () => {
    expect(writesUp).toBeGreaterThan(40);
    for (let write = 1; write <= writesUp; write += 1) {
      const texts = new Map<string, string>();
      await live({ texts, killAt: { write, torn } }, "slice.vm_provision", spec);
      const next = await live({ texts, killAt: null }, "slice.vm_provision", spec);
      expect(next.result?.outcome, `killed at write ${write} of ${writesUp}`).toBe("succeeded");
      await live({ texts, killAt: null }, "slice.vm_release", reference);
      expect(leftovers(texts), `killed at write ${write} of ${writesUp}`).toEqual([]);
    }
  });

  test("takes the slice down in its next life and leaves nothing", async () => {
    expect(writesDown).toBeGreaterThan(30);
    for (let write = 1; write <= writesDown; write += 1) {
      const texts = new Map<string, string>();
      await live({ texts, killAt: null }, "slice.vm_provision", spec);
      await live({ texts, killAt: { write, torn } }, "slice.vm_release", reference);
      const next = await live({ texts, killAt: null }, "slice.vm_release", reference);
      expect(next.result?.outcome, `killed at write ${write} of ${writesDown}`).toBe("succeeded");
      expect(leftovers(texts), `killed at write ${write} of ${writesDown}`).toEqual([]);
    }
  });

  test("repairs the slice in its next life, over the disk that it has", async () => {
    const repair = { spec, newDisk: false };
    let last = 0;
    // The first round counts the writes of a life that nothing ends.
    for (let write = 0; write <= last; write += 1) {
      const texts = new Map<string, string>();
      await live({ texts, killAt: null }, "slice.vm_provision", spec);
      const machine = [...texts.keys()].find((path) => path.startsWith("mock/") && path.endsWith("/machine")) ?? "";
      const disk = texts.get(machine.replace("/machine", "/disk"));
      texts.delete(machine);
      const { writes } = await live({ texts, killAt: { write, torn } }, "slice.vm_repair", repair);
      last = Math.max(last, writes);
      const next = await live({ texts, killAt: null }, "slice.vm_repair", repair);
      expect(next.result?.outcome, `killed at write ${write}`).toBe("succeeded");
      expect(texts.get(machine), `killed at write ${write}`).toContain('"made"');
      expect(texts.get(machine.replace("/machine", "/disk"))).toBe(disk);
      await live({ texts, killAt: null }, "slice.vm_release", reference);
      expect(leftovers(texts), `killed at write ${write}`).toEqual([]);
    }
    expect(last).toBeGreaterThan(20);
  });

  test("undoes in its next life what a failure began", async () => {
    const failing = { ...spec, labels: { "mock.hostler.dev/start": "fail" } };
    const whole = await live({ texts: new Map(), killAt: null }, "slice.vm_provision", failing);
    expect(whole.result?.outcome).toBe("failed");
    for (let write = 1; write <= whole.writes; write += 1) {
      const texts = new Map<string, string>();
      await live({ texts, killAt: { write, torn } }, "slice.vm_provision", failing);
      const next = await live({ texts, killAt: null }, "slice.vm_provision", failing);
      expect(next.result?.outcome, `killed at write ${write} of ${whole.writes}`).toBe("failed");
      expect(leftovers(texts), `killed at write ${write} of ${whole.writes}`).toEqual([]);
    }
  });
});

test("a task that was seen is refused when it is replayed, also by the next agent", async () => {
  const texts = new Map<string, string>();
  const mark = makeHighWaterMark(makeMemoryFiles(texts));
  await mark.raise({ seq: 7, fence: "9" });
  await expect(mark.raise({ seq: 7, fence: "10" })).rejects.toMatchObject({ code: "task_rejected" });
  await expect(makeHighWaterMark(makeMemoryFiles(texts)).raise({ seq: 6, fence: "11" })).rejects.toMatchObject({
    code: "task_rejected",
  });
});
