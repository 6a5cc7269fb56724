import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { expect, onTestFinished, test } from "vitest";
import { makeHostCommands } from "../../host/host-commands.ts";
import { makeLog } from "../../log.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { makeMemoryFiles } from "../../testing/memory-files.ts";
import { probeFirmware, PROBE_EXIT_CODE } from "./accelerator-probe.ts";
import { decideAccelerator, probeArgv } from "./accelerator.ts";
import { commands, never } from "../testing.ts";

const log = makeLog("silent");
/** A device that opens: what the accelerator does is then up to the QEMU of the test. */
const DEVICE = "/dev/null";

async function makeFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "hq-"));
  onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
  return folder;
}

/** A host whose QEMU behaves as told, counting how often it was asked. */
function makeHost(behave: () => Promise<number>): { readonly commands: HostCommands; readonly asked: string[][] } {
  const asked: string[][] = [];
  return {
    asked,
    commands: {
      run: async (argv) => {
        asked.push([...argv]);
        return { exitCode: await behave(), stdout: "", stderr: "qemu: no\nmore", durationMs: 1 };
      },
    },
  };
}

test("the probe runs to its end on an accelerator that works", async () => {
  const firmware = join(await makeFolder(), "probe.rom");
  await writeFile(firmware, probeFirmware());
  const result = await commands.run(probeArgv("tcg", firmware), { timeoutMs: 20_000, signal: never });
  expect(result).toMatchObject({ exitCode: PROBE_EXIT_CODE, stderr: "" });
});

test("this host gets a verdict within five seconds, and a machine on the chosen accelerator ends the probe", async () => {
  const runDir = await makeFolder();
  const startedMs = systemClock.monotonicMs();
  const deps = { commands, files: makeMemoryFiles(), log, bootId: "boot", runDir };
  const verdict = await decideAccelerator(deps, { forced: null, signal: never });
  expect(systemClock.monotonicMs() - startedMs).toBeLessThan(5000);
  expect(await readdir(runDir)).toEqual([]);
  const firmware = join(runDir, "probe.rom");
  await writeFile(firmware, probeFirmware());
  const { exitCode } = await makeHostCommands({ clock: systemClock }).run(probeArgv(verdict.accelerator, firmware), {
    timeoutMs: 20_000,
    signal: never,
  });
  expect(exitCode).toBe(PROBE_EXIT_CODE);
});

test("a KVM that ends the probe is used, and asked once a boot", async () => {
  const host = makeHost(async () => PROBE_EXIT_CODE);
  const deps = {
    commands: host.commands,
    files: makeMemoryFiles(),
    log,
    bootId: "one",
    runDir: await makeFolder(),
    device: DEVICE,
  };
  const decide = async (bootId: string): Promise<unknown> =>
    await decideAccelerator({ ...deps, bootId }, { forced: null, signal: never });
  expect(await decide("one")).toEqual({ accelerator: "kvm", reason: null });
  expect(await decide("one")).toEqual({ accelerator: "kvm", reason: null });
  expect(host.asked).toHaveLength(1);
  await decide("two");
  expect(host.asked).toHaveLength(2);
  expect(host.asked[0]).toEqual(expect.arrayContaining(["-accel", "kvm", "-cpu", "host"]));
});

test("a KVM that is too slow or that QEMU refuses falls back to emulation and says why", async () => {
  const slow = makeHost(async () => {
    throw new AppError("command_timeout");
  });
  const refusing = makeHost(async () => 134);
  const decide = async (host: HostCommands): Promise<unknown> =>
    await decideAccelerator(
      { commands: host, files: makeMemoryFiles(), log, bootId: "boot", runDir: await makeFolder(), device: DEVICE },
      { forced: null, signal: never },
    );
  expect(await decide(slow.commands)).toEqual({
    accelerator: "tcg",
    reason: "/dev/kvm is there, but a test machine did not end on it within 3 s",
  });
  expect(await decide(refusing.commands)).toEqual({
    accelerator: "tcg",
    reason: "/dev/kvm is there, but a test machine failed on it: qemu: no",
  });
});

test("a forced accelerator is not tried", async () => {
  const host = makeHost(async () => 1);
  const deps = { commands: host.commands, files: makeMemoryFiles(), log, bootId: "boot", runDir: "/nowhere" };
  expect(await decideAccelerator(deps, { forced: "kvm", signal: never })).toMatchObject({ accelerator: "kvm" });
  expect(await decideAccelerator(deps, { forced: "tcg", signal: never })).toMatchObject({ accelerator: "tcg" });
  expect(host.asked).toEqual([]);
});
