import { expect, test } from "vitest";
import type { SliceReadDeps } from "../inventory/read-slices.ts";
import { makeSliceInventory, type SliceInventory } from "../inventory/slice-inventory.ts";
import { makeLog } from "../log.ts";
import { slicesLoop } from "./slices.ts";

/** A host without slices. */
const EMPTY_HOST: SliceReadDeps = {
  drivers: new Map(),
  ledger: { read: async () => await Promise.resolve({}) },
  journals: { list: async () => await Promise.resolve([]), peek: async () => await Promise.resolve(null) },
  gpus: { list: async () => await Promise.resolve([]), ownerOf: async () => await Promise.resolve(null) },
  view: () => ({ highWaterMark: 0, slices: [] }),
};

/** How long the loop waits, one number a wait, and a word for each list that it sends. Ends with the third look. */
async function run(slices: SliceInventory, send: (count: number) => Promise<void>): Promise<(number | "list")[]> {
  const did: (number | "list")[] = [];
  const stopping = new AbortController();
  let looks = 0;
  let lists = 0;
  const loop = slicesLoop({
    controlPlane: {
      sendSlices: async () => {
        did.push("list");
        lists += 1;
        await send(lists);
      },
    },
    slices: {
      ...slices,
      get isAsked() {
        return slices.isAsked;
      },
      get asks() {
        return slices.asks;
      },
      look: async (signal) => {
        looks += 1;
        if (looks === 3) stopping.abort(new Error("enough"));
        signal.throwIfAborted();
        return await slices.look(signal);
      },
    },
    taskEnded: async () => await new Promise<never>(() => undefined),
    clock: {
      now: () => new Date(0),
      monotonicMs: () => 0,
      sleep: async (ms) => {
        did.push(ms);
        return await Promise.resolve();
      },
    },
    random: () => 1,
    log: makeLog("silent"),
  });
  await expect(loop.run(() => undefined, stopping.signal)).rejects.toThrow("enough");
  return did;
}

test("a list is told once, and looked at again every ten seconds", async () => {
  expect(await run(makeSliceInventory(EMPTY_HOST), async () => await Promise.resolve())).toEqual([
    "list",
    1000,
    9000,
    1000,
    9000,
  ]);
});

test("a list that could not be told is told again soon, and not only with the next look", async () => {
  const send = async (count: number): Promise<void> => {
    await Promise.resolve();
    if (count === 1) throw new Error("the control plane is away");
  };
  expect(await run(makeSliceInventory(EMPTY_HOST), send)).toEqual(["list", 3000, "list", 1000, 9000]);
});

test("who asks while the list before is on its way gets one that was looked at after that", async () => {
  const slices = makeSliceInventory(EMPTY_HOST);
  slices.ask();
  const send = async (count: number): Promise<void> => {
    await Promise.resolve();
    if (count === 1) slices.ask();
  };
  expect((await run(slices, send)).filter((one) => one === "list")).toHaveLength(2);
});
