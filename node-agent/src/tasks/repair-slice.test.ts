import { systemClock } from "@hostler/shared/clock.ts";
import { newId, shortName } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { expect, test } from "vitest";
import { makeMockDriver } from "../drivers/mock/mock-driver.ts";
import { makeSimulatedGpus } from "../gpus/simulated.ts";
import { makeHostLedger } from "../journal/host-ledger.ts";
import { makeJournalStore } from "../journal/journal-file.ts";
import { makeLog } from "../log.ts";
import type { SliceDriver } from "../ports/slice-driver.ts";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { provisionSlice } from "./provision-slice.ts";
import { releaseSlice } from "./release-slice.ts";
import { removeSlice } from "./remove-slice.ts";
import { repairSlice } from "./repair-slice.ts";
import type { GrantedTask } from "./task.ts";

/** A host with an active slice, and what an agent's tasks need. */
async function makeHost(
  options: { readonly labels?: SliceSpec["labels"]; readonly driver?: Partial<SliceDriver> } = {},
) {
  const texts = new Map<string, string>();
  const files = makeMemoryFiles(texts);
  const gpus = makeSimulatedGpus({ files, clock: systemClock }, { kind: "h100", count: 1 }, "seed");
  const [gpu] = await gpus.list(new AbortController().signal);
  const mock = makeMockDriver({ files, clock: systemClock });
  const deps = {
    journals: makeJournalStore({ files, clock: systemClock }),
    ledger: makeHostLedger(files),
    drivers: new Map([["mock", { ...mock, ...options.driver }]]),
    gpus,
    clock: systemClock,
    random: () => 0,
    log: makeLog("silent"),
    availableMemoryMib: async () => 4096,
  };
  const spec: SliceSpec = {
    allocationId: newId("allocation", systemClock),
    generation: 1,
    driver: "mock",
    hostName: "repair",
    vcpus: 1,
    memoryMib: 128,
    diskGib: 1,
    image: { name: "tiny", sha256: "a".repeat(64), sizeBytes: 4, format: "raw" },
    gpuUuids: [gpu?.uuid ?? ""],
    sshPublicKeys: [],
    userData: null,
    labels: options.labels ?? {},
  };
  let fence = 0;
  const cancel = new AbortController();
  const grant = (): GrantedTask => ({
    claims: {
      iss: "hostler",
      aud: newId("node", systemClock),
      jti: newId("task", systemClock),
      kind: "",
      iat: 0,
      nbf: 0,
      exp: 0,
      cnf: { jkt: "" },
      fence: String((fence += 1)),
      seq: fence,
      attempt: 1,
      pdig: "b".repeat(64),
      params: "",
    },
    cancel: cancel.signal,
    stop: new AbortController().signal,
    assertHeld: () => undefined,
    emit: () => undefined,
  });
  const folder = `mock/${shortName(spec.allocationId, 1)}`;
  const { outcome } = await provisionSlice(deps, grant(), spec);
  expect(outcome.outcome).toBe("succeeded");
  return {
    texts,
    deps,
    spec,
    folder,
    grant,
    cancel: () => cancel.abort(new Error("not wanted")),
    repair: async (newDisk = false) => (await repairSlice(deps, grant(), { spec, newDisk })).outcome,
  };
}

test("a machine that ended is made again, over the disk that is there", async () => {
  const host = await makeHost();
  const disk = host.texts.get(`${host.folder}/disk`);
  host.texts.delete(`${host.folder}/machine`);
  expect(await host.repair()).toMatchObject({ outcome: "succeeded" });
  expect(host.texts.get(`${host.folder}/machine`)).toContain('"made"');
  expect(host.texts.get(`${host.folder}/disk`)).toBe(disk);
});

test("a machine that runs is left alone, and so is one that cannot be told", async () => {
  const host = await makeHost();
  const before = new Map(host.texts);
  expect(await host.repair()).toMatchObject({ outcome: "succeeded" });
  expect(host.texts).toEqual(before);
  const survey = async () => await Promise.resolve({ machine: "unclear", hasDisk: true } as const);
  const unclear = await makeHost({ driver: { survey } });
  const texts = new Map(unclear.texts);
  expect((await unclear.repair()).failure).toMatchObject({ code: "conflict" });
  expect(unclear.texts).toEqual(texts);
});

test("a disk that is gone is not made anew unless that was asked for", async () => {
  const host = await makeHost();
  host.texts.delete(`${host.folder}/machine`);
  host.texts.delete(`${host.folder}/disk`);
  expect((await host.repair()).failure).toMatchObject({ code: "disk_lost" });
  expect(host.texts.has(`${host.folder}/disk`)).toBe(false);
  expect(await host.repair(true)).toMatchObject({ outcome: "succeeded" });
  expect(host.texts.has(`${host.folder}/disk`)).toBe(true);
});

test("a host that has lost its books of a slice makes its machine again, and keeps the disk", async () => {
  const host = await makeHost();
  host.texts.delete(`${host.folder}/machine`);
  for (const name of [...host.texts.keys()])
    if (name.startsWith("journal/") || name === "ledger.json") host.texts.delete(name);
  expect(await host.repair()).toMatchObject({ outcome: "succeeded" });
  expect((await host.deps.journals.peek(host.spec))?.sealed).toBe(true);
  expect(host.texts.get(`${host.folder}/machine`)).toContain('"made"');
});

test("a repair that fails undoes nothing, and the next one goes on", async () => {
  const host = await makeHost();
  host.texts.delete(`${host.folder}/machine`);
  const [driver] = host.deps.drivers.values();
  if (driver === undefined) throw new Error("there is a driver");
  const failing: SliceDriver["machine"] = {
    ...driver.machine,
    create: async () => await Promise.reject(new Error("no machine today")),
  };
  host.deps.drivers.set("mock", { ...driver, machine: failing });
  const before = host.texts.get(`${host.folder}/disk`);
  expect((await host.repair()).failure).toMatchObject({ phase: "start", leftovers: [] });
  expect(host.texts.get(`${host.folder}/disk`)).toBe(before);
  host.deps.drivers.set("mock", driver);
  expect(await host.repair()).toMatchObject({ outcome: "succeeded" });
});

test("a repair that is cancelled undoes nothing, and a slice that goes down is not repaired", async () => {
  const host = await makeHost();
  host.texts.delete(`${host.folder}/machine`);
  host.cancel();
  expect(await host.repair()).not.toMatchObject({ outcome: "succeeded" });
  expect(host.texts.has(`${host.folder}/disk`)).toBe(true);

  const other = await makeHost({ labels: { "mock.hostler.dev/disk": "stuck-undo" } });
  const reference = { allocationId: other.spec.allocationId, generation: 1, driver: "mock" } as const;
  expect((await releaseSlice(other.deps, other.grant(), reference)).outcome.outcome).toBe("failed");
  expect((await other.repair(true)).failure).toMatchObject({ code: "journal_conflict" });
});

test("a tombstone removes its own generation and refuses another", async () => {
  const host = await makeHost();
  const slice = { allocationId: host.spec.allocationId, driver: "mock", reason: "orphan" } as const;
  const before = new Map(host.texts);
  const refused = await removeSlice(host.deps, host.grant(), { ...slice, generation: 2 });
  expect(refused.outcome.failure).toMatchObject({ code: "journal_conflict" });
  expect(host.texts).toEqual(before);
  const removed = await removeSlice(host.deps, host.grant(), { ...slice, generation: 1 });
  expect(removed.outcome).toMatchObject({
    outcome: "succeeded",
    facts: { disk: { readBack: expect.stringMatching(/^absent/) } },
  });
  expect([...host.texts.keys()].filter((name) => name.startsWith("mock/"))).toEqual([]);
  const again = await removeSlice(host.deps, host.grant(), { ...slice, generation: 1 });
  expect(again.outcome.outcome).toBe("succeeded");
});
