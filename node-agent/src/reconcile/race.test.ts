import { systemClock } from "@hostler/shared/clock.ts";
import { newId, shortName } from "@hostler/shared/ids.ts";
import type { ResultClaims, SliceSpec, TaskClaims } from "@hostler/shared/tasks.ts";
import { expect, test } from "vitest";
import { makeMockDriver } from "../drivers/mock/mock-driver.ts";
import { makeSpec, never } from "../drivers/testing.ts";
import { makeSimulatedGpus } from "../gpus/simulated.ts";
import { makeHostLedger } from "../journal/host-ledger.ts";
import { makeJournalStore } from "../journal/journal-file.ts";
import { makeLog } from "../log.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { makeHighWaterMark } from "../runner/high-water-mark.ts";
import { makeOutbox } from "../runner/outbox.ts";
import { makeRunner } from "../runner/runner.ts";
import { provisionSlice } from "../tasks/provision-slice.ts";
import { releaseSlice } from "../tasks/release-slice.ts";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { makeReconciler } from "./reconciler.ts";
import { ledgerRows } from "./sources/books.ts";
import { mockObjects } from "./sources/mock-objects.ts";

/**
 * A slice ended on this host, left its things behind, and is built here again under the same name while reconciliation looks and
 * removes without a pause. Every read and write takes a while that the seed decides, so that the two meet in every way.
 */
const SEEDS = 150;
const log = makeLog("silent");

test(
  "a slice that is built again while its leftovers are removed is whole in the end",
  { timeout: 120_000 },
  async () => {
    let removedSomewhere = 0;
    for (let seed = 1; seed <= SEEDS; seed += 1) {
      const { end, removed } = await race(seed);
      expect({ seed, ...end }).toEqual({
        seed,
        outcome: "succeeded",
        objects: ["disk", "machine", "network", "seed"],
        rows: 1,
      });
      removedSomewhere += removed;
    }
    // The other side did something too, or there was no race.
    expect(removedSomewhere).toBeGreaterThan(SEEDS / 4);
  },
);

async function race(seed: number) {
  const random = randomOf(seed);
  const files = slowFiles(makeMemoryFiles(), random);
  const spec = makeSpec({ driver: "mock" });
  const owner = shortName(spec.allocationId, 1);
  const parts = makeParts(files);
  await endOnce(parts, files, spec);
  const { runner, delivered } = makeAgent(parts, files);
  const reconciler = makeReconciler({
    ...parts,
    files,
    pid: 1,
    hasNetwork: false,
    sources: [mockObjects(files), ledgerRows(parts.ledger)],
    inHand: () => runner.view().slices,
    keepOff: runner.keepOff,
  });
  let isOver = false;
  const looking = (async () => {
    let removed = 0;
    while (!isOver) removed = (await reconciler.reconcile(never)).undone.length;
    return removed;
  })();
  await pauses(Math.floor(random() * 120));
  const claims = { jti: newId("task", systemClock), kind: "slice.vm_provision", fence: "7", seq: 1, attempt: 1 };
  const jws = JSON.stringify({ ...claims, pdig: "again", params: JSON.stringify(spec) });
  await runner.take({ jws, sentAtMs: systemClock.monotonicMs(), leaseTtlMs: 60_000 });
  const { outcome } = await delivered;
  isOver = true;
  const removed = await looking;
  await reconciler.reconcile(never);
  await runner.stop(1000);
  const objects = await files.list(`mock/${owner}`);
  return { end: { outcome, objects, rows: Object.keys(await parts.ledger.read()).length }, removed };
}

function makeParts(files: StateFiles) {
  return {
    journals: makeJournalStore({ files, clock: systemClock }),
    ledger: makeHostLedger(files),
    drivers: new Map([["mock", makeMockDriver({ files, clock: systemClock })]]),
    gpus: makeSimulatedGpus({ files, clock: systemClock }, { kind: "h100", count: 1 }, "seed"),
    clock: systemClock,
    random: () => 0,
    log,
    availableMemoryMib: async () => 4096,
  };
}

/** The slice's first life: its journal closed and gone, a disk and a machine still there. */
async function endOnce({ journals }: ReturnType<typeof makeParts>, files: StateFiles, spec: SliceSpec): Promise<void> {
  const { allocationId, generation } = spec;
  const opened = { allocationId, generation, driver: "mock", specDigest: null, fence: "1" } as const;
  const journal = await journals.create(opened, null);
  await journal.append({ kind: "closed", outcome: "succeeded", facts: {}, failure: null });
  await journal.remove();
  const object = JSON.stringify({ allocationId, generation, fence: "1", stage: "made", isStuck: false });
  for (const name of ["disk", "machine"])
    await files.replace(`mock/${shortName(allocationId, generation)}/${name}`, object);
}

function makeAgent(parts: ReturnType<typeof makeParts>, files: StateFiles) {
  const delivered = Promise.withResolvers<ResultClaims>();
  const refuse = async (): Promise<never> => await Promise.reject(new Error("not in this test"));
  const runner = makeRunner({
    ...parts,
    identity: {
      nodeId: "node_01900000-0000-7000-8000-000000000001",
      verifyTask: async (jws) => JSON.parse(jws) as TaskClaims,
      signResult: async (claims) => JSON.stringify(claims),
    },
    controlPlane: {
      sendProgress: async () => ({ leaseTtlMs: 60_000, cancel: false }),
      sendResult: async ({ resultJws }) => delivered.resolve(JSON.parse(resultJws) as ResultClaims),
    },
    handlers: {
      "slice.vm_provision": async (task, wanted) => await provisionSlice(parts, task, wanted),
      "slice.vm_release": async (task, wanted) => await releaseSlice(parts, task, wanted),
      "slice.vm_repair": refuse,
      "slice.remove": refuse,
      "terminal.open": refuse,
    },
    highWaterMark: makeHighWaterMark(files),
    outbox: makeOutbox(files),
  });
  return { runner, delivered: delivered.promise };
}

/** Each takes zero to seven turns of the event loop before and after, as the seed has it. */
function slowFiles(files: StateFiles, random: () => number): StateFiles {
  const slowly =
    <Arguments extends readonly unknown[], Result>(work: (...args: Arguments) => Promise<Result>) =>
    async (...args: Arguments): Promise<Result> => {
      await pauses(Math.floor(random() * 8));
      const result = await work(...args);
      await pauses(Math.floor(random() * 8));
      return result;
    };
  return {
    read: slowly(files.read),
    replace: slowly(files.replace),
    append: slowly(files.append),
    remove: slowly(files.remove),
    list: slowly(files.list),
  };
}

async function pauses(count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Numbers that follow from the seed (mulberry32). */
function randomOf(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
