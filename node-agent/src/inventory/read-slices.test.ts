import { systemClock } from "@hostler/shared/clock.ts";
import { newId, shortName } from "@hostler/shared/ids.ts";
import { SLICES_MAX, slicesReportSchema, type SliceEntry } from "@hostler/shared/node-protocol.ts";
import { expect, test } from "vitest";
import { makeMockDriver } from "../drivers/mock/mock-driver.ts";
import { makeSimulatedGpus } from "../gpus/simulated.ts";
import { makeHostLedger } from "../journal/host-ledger.ts";
import { makeJournalStore } from "../journal/journal-file.ts";
import type { SliceDriver } from "../ports/slice-driver.ts";
import type { RunnerView } from "../runner/runner.ts";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { readSlices } from "./read-slices.ts";

const never = new AbortController().signal;

/** A host with two GPUs whose slices are made as the phases make them, without the phases. */
async function makeHost(changes: Partial<SliceDriver> = {}) {
  const texts = new Map<string, string>();
  const files = makeMemoryFiles(texts);
  const gpus = makeSimulatedGpus({ files, clock: systemClock }, { kind: "h100", count: 2 }, "seed");
  const ledger = makeHostLedger(files);
  const journals = makeJournalStore({ files, clock: systemClock });
  const driver = { ...makeMockDriver({ files, clock: systemClock }), ...changes };
  const view: RunnerView = { highWaterMark: 7, slices: [] };
  const host = {
    texts,
    deps: { drivers: new Map([["mock", driver]]), ledger, journals, gpus, view: () => view },
    read: async (inHand: RunnerView["slices"] = []) =>
      await readSlices({ ...host.deps, view: () => ({ ...view, slices: inHand }) }, never),
    add: async (fence = "3") => {
      const allocationId = newId("allocation", systemClock);
      const slice = { allocationId, generation: 1 };
      const [gpu] = await gpus.list(never);
      const gpuUuids = [gpu?.uuid ?? ""];
      const sizes = { vcpus: 1, memoryMib: 512, diskGib: 2 };
      const owner = shortName(allocationId, 1);
      await ledger.reserve(owner, { ...slice, driver: "mock", fence, state: "reserved", gpuUuids, ...sizes });
      await gpus.bind(gpuUuids[0] ?? "", { owner, access: "device_nodes" }, never);
      const object = JSON.stringify({ ...slice, fence, stage: "made", isStuck: false });
      await files.replace(`mock/${owner}/disk`, object);
      await files.replace(`mock/${owner}/machine`, object);
      return { slice, owner, gpuUuids, path: `mock/${owner}` };
    },
  };
  return host;
}

const only = ({ slices }: { readonly slices: readonly SliceEntry[] }): SliceEntry | undefined => {
  expect(slices).toHaveLength(1);
  return slices[0];
};

test("a slice that runs is shown with its grant, its GPUs and its sizes, and the digest stays the same", async () => {
  const host = await makeHost();
  const { slice, gpuUuids } = await host.add();
  const report = await host.read();
  expect(only(report)).toEqual({
    ...slice,
    driver: "mock",
    state: "running",
    fence: "3",
    gpuUuids,
    vcpus: 1,
    memoryMib: 512,
    diskGib: 2,
  });
  expect(report).toMatchObject({ highWaterMark: 7, isWhole: true });
  expect((await host.read()).digest).toBe(report.digest);
  expect(slicesReportSchema.safeParse(report).success).toBe(true);
});

test("what is missing of it is shown, each as something else, and each in another digest", async () => {
  const host = await makeHost();
  const { slice, owner, path, gpuUuids } = await host.add();
  const digests = new Set([(await host.read()).digest]);
  await host.deps.gpus.unbind(gpuUuids[0] ?? "", owner, never);
  const unbound = await host.read();
  expect(only(unbound)).toMatchObject({ state: "running", gpuUuids: [] });
  host.texts.delete(`${path}/machine`);
  const stopped = await host.read();
  expect(only(stopped)).toMatchObject({ state: "stopped" });
  host.texts.delete(`${path}/disk`);
  const lost = await host.read();
  expect(only(lost)).toMatchObject({ ...slice, state: "lost" });
  for (const report of [unbound, stopped, lost]) digests.add(report.digest);
  expect(digests.size).toBe(4);
});

test("a slice that only one source still knows is shown", async () => {
  const host = await makeHost();
  const fromDriver = await host.add();
  host.texts.delete("ledger.json");
  // Its GPU is found by its owner's name.
  expect(only(await host.read())).toMatchObject({ state: "running", gpuUuids: fromDriver.gpuUuids, vcpus: null });
  host.texts.delete(`${fromDriver.path}/machine`);
  host.texts.delete(`${fromDriver.path}/disk`);
  expect((await host.read()).slices).toEqual([]);
  const slice = { allocationId: newId("allocation", systemClock), generation: 2 };
  await host.deps.journals.create({ ...slice, driver: "mock", specDigest: null, fence: "9" }, null);
  expect(only(await host.read())).toMatchObject({ ...slice, state: "lost", fence: "9" });
});

test("what a task has in hand is building or releasing, also when it took it in the middle of the look", async () => {
  const host = await makeHost();
  const { slice } = await host.add();
  const released = await host.read([{ ...slice, driver: "mock", state: "releasing" }]);
  expect(only(released)).toMatchObject({ state: "releasing", fence: "3" });
  const begun = {
    allocationId: newId("allocation", systemClock),
    generation: 1,
    driver: "mock",
    state: "building",
  } as const;
  let looks = 0;
  const view = (): RunnerView => ({ highWaterMark: 8, slices: ++looks === 1 ? [] : [begun] });
  const report = await readSlices({ ...host.deps, view }, never);
  expect(report.highWaterMark).toBe(8);
  expect(report.slices.find((entry) => entry.allocationId === begun.allocationId)).toMatchObject({ state: "building" });
});

test("a slice that cannot be looked at is unclear, and a source that cannot be read makes no list", async () => {
  const broken = await makeHost({ survey: async () => await Promise.reject(new Error("the monitor hangs")) });
  await broken.add();
  expect(only(await broken.read())).toMatchObject({ state: "unclear" });

  const without = await makeHost();
  await without.add();
  const deps = { ...without.deps, drivers: new Map() };
  expect(only(await readSlices(deps, never))).toMatchObject({ state: "unclear" });

  const torn = await makeHost();
  const { slice } = await torn.add();
  torn.texts.delete("ledger.json");
  torn.texts.set(`journal/${slice.allocationId}-1.jsonl`, "no journal\nat all\n");
  expect(only(await torn.read())).toMatchObject({ state: "running", fence: "0" });

  const blind = await makeHost({ listSlices: async () => await Promise.reject(new Error("no /proc")) });
  await expect(blind.read()).rejects.toThrow(/no \/proc/);
});

test("more slices than fit into a list: the list says so, and its digest is still of all", async () => {
  const slices = Array.from({ length: SLICES_MAX + 1 }, () => ({
    allocationId: newId("allocation", systemClock),
    generation: 1,
  }));
  const host = await makeHost({ listSlices: async () => await Promise.resolve(slices) });
  const report = await host.read();
  expect(report).toMatchObject({ isWhole: false });
  expect(report.slices).toHaveLength(SLICES_MAX);
  slices.pop();
  expect((await host.read()).digest).not.toBe(report.digest);
});
