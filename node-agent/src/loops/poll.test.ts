import { AppError } from "@hostler/shared/errors.ts";
import { expect, test } from "vitest";
import { connectionFailure } from "../control/connection-failure.ts";
import { makeLog } from "../log.ts";
import { pollLoop } from "./poll.ts";

const never = async (): Promise<never> => await new Promise<never>(() => undefined);

/** How long the loop waits after each of the failures, with the longest throw of the dice. */
async function waitsAfter(
  failures: readonly AppError[],
  options: { readonly mend?: () => Promise<boolean>; readonly takesMs?: number } = {},
): Promise<number[]> {
  const { mend = async () => await Promise.resolve(false), takesMs = 0 } = options;
  const waits: number[] = [];
  let nowMs = 0;
  const left = [...failures];
  const stopping = new AbortController();
  const loop = pollLoop({
    controlPlane: {
      poll: async () => {
        nowMs += takesMs;
        return await Promise.reject(left.shift() ?? new Error("asked too often"));
      },
    },
    keeper: {
      current: {},
      startSession: async () => await Promise.resolve(),
      mend,
    } as never,
    runner: { running: [], credit: 1, creditChanged: never } as never,
    clock: {
      now: () => new Date(),
      monotonicMs: () => nowMs,
      sleep: async (ms) => {
        waits.push(ms);
        if (left.length === 0 || waits.length > failures.length) stopping.abort(new Error("enough"));
        return await Promise.resolve();
      },
    },
    random: () => 1,
    log: makeLog("silent"),
    endedCleanly: false,
    agentInstance: "test",
  });
  await expect(loop.run(() => undefined, stopping.signal)).rejects.toThrow("enough");
  return waits;
}

test("a control plane that answers that it cannot is asked again soon, one that does not answer later", async () => {
  const busy = Array.from({ length: 7 }, () => new AppError("service_unavailable"));
  expect(await waitsAfter(busy)).toEqual([300, 600, 1200, 2400, 4800, 9600, 10_000]);
  const away = Array.from({ length: 4 }, () => connectionFailure("here:1", new Error("ECONNREFUSED")));
  expect(await waitsAfter(away)).toEqual([2000, 4000, 8000, 10_000]);
});

test("a poll that was held until the database was too long away is sent again as after a first failure", async () => {
  const busy = Array.from({ length: 4 }, () => new AppError("service_unavailable"));
  expect(await waitsAfter(busy, { takesMs: 25_000 })).toEqual([300, 300, 300, 300]);
});

test("a refusal is mended however many came before it, and asked again at once only the first few times", async () => {
  let mends = 0;
  const mend = async (): Promise<boolean> => await Promise.resolve(++mends > 0);
  const refusals = Array.from({ length: 5 }, () => new AppError("session_superseded"));
  expect(await waitsAfter(refusals, { mend })).toEqual([2400, 4800]);
  expect(mends).toBe(5);
});
