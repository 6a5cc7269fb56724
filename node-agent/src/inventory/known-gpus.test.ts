import { AppError } from "@hostler/shared/errors.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, test } from "vitest";
import { makeSimulatedGpus } from "../gpus/simulated.ts";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { makeKnownGpus } from "./known-gpus.ts";

const never = new AbortController().signal;
const lost = {
  list: async () =>
    await Promise.reject(new AppError("command_failed", { detail: "nvidia-smi ended with 15: GPU is lost" })),
};

test("GPUs that cannot be read any more are told as unhealthy, also by an agent that never read them", async () => {
  const files = makeMemoryFiles();
  const gpus = makeSimulatedGpus({ files, clock: systemClock }, { kind: "h100", count: 2 }, "seed");
  const before = await makeKnownGpus(gpus, files)(never);
  const after = await makeKnownGpus(lost, files)(never);
  expect(after).toEqual(
    before.map((gpu) => ({ ...gpu, healthy: false, fault: expect.stringContaining("ended with 15: GPU is lost") })),
  );
  expect(await makeKnownGpus(gpus, files)(never)).toEqual(before);
});

test("a host whose GPUs were never read has none to tell of, and a spoilt memory is none", async () => {
  await expect(makeKnownGpus(lost, makeMemoryFiles())(never)).rejects.toThrow("GPU is lost");
  const spoilt = makeMemoryFiles(new Map([["known-gpus.json", '[{"uuid":']]));
  await expect(makeKnownGpus(lost, spoilt)(never)).rejects.toThrow("GPU is lost");
});
