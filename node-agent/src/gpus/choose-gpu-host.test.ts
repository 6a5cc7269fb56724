import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { expect, onTestFinished, test } from "vitest";
import { makeFindProgram } from "../host/find-program.ts";
import { HOST_ROOTS } from "../host/pci/pci-roots.ts";
import { makeLog } from "../log.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { chooseGpuHost } from "./choose-gpu-host.ts";

const hanging: HostCommands = {
  run: async (argv) => {
    throw new AppError("command_timeout", { detail: `${argv[0]} did not end within 30 s and was killed.` });
  },
};

test("an agent starts beside an nvidia-smi that hangs in the driver, and says so where GPUs are asked for", async () => {
  const folder = await mkdtemp(join(tmpdir(), "hq-"));
  onTestFinished(async () => await rm(folder, { recursive: true }));
  await writeFile(join(folder, "nvidia-smi"), "");
  await chmod(join(folder, "nvidia-smi"), 0o755);
  const parts = { commands: hanging, files: makeMemoryFiles(), clock: systemClock, log: makeLog("silent") };
  const deps = { ...parts, roots: HOST_ROOTS };
  const { signal } = new AbortController();
  const options = { simulate: null, nodeId: "node", mig: [], fabricManagerSocket: join(folder, "none") };
  const gpus = await chooseGpuHost({ ...deps, find: makeFindProgram([folder]) }, options);
  await expect(gpus.list(signal)).rejects.toMatchObject({ code: "command_timeout" });
  const without = await chooseGpuHost({ ...deps, find: makeFindProgram([]) }, options);
  expect(await without.list(signal)).toEqual([]);
});
