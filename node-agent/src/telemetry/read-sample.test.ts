import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import { expect, test } from "vitest";
import { NO_GPUS } from "../gpus/choose-gpu-host.ts";
import { makeLog } from "../log.ts";
import type { GpuHost } from "../ports/gpu-host.ts";
import { readSample } from "./read-sample.ts";

const HOST = { cpuPercent: 1, memoryUsedMib: 1, memoryTotalMib: 2, diskFreeGib: 3, load1: 0 };

test("a driver that hangs does not keep the host's own half from being told in time", async () => {
  const hanging: GpuHost = {
    ...NO_GPUS,
    sample: async (signal) =>
      await new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  };
  const limitsMs: number[] = [];
  const clock: Clock = {
    ...systemClock,
    sleep: async (ms) => {
      limitsMs.push(ms);
      await Promise.resolve();
    },
  };
  const deps = { host: { sample: async () => HOST }, gpus: hanging, clock, log: makeLog("silent") };
  expect(await readSample(deps, new AbortController().signal)).toMatchObject({ host: HOST, gpus: [] });
  expect(limitsMs).toEqual([5000]);
});
