import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { systemClock } from "@hostler/shared/clock.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { CreateContext, SliceDriver, TerminalCommand } from "../../ports/slice-driver.ts";
import { makeDetachedSupervisor } from "../../host/detached-supervisor.ts";
import { makeDiskFiles } from "../../journal/disk-files.ts";
import { makeLog } from "../../log.ts";
import { DEFAULT_NETWORK_POLICY } from "../network/network-policy.ts";
import type { QemuPlaces } from "../slices/slice-paths.ts";
import { commands, makeContext, never, sourceOf } from "../testing.ts";
import { makeQemuDriver, type QemuDriverDeps } from "./qemu-driver.ts";

const run = promisify(execFile);

/** The driver as an agent on this host has it: without a network of its own, emulated, and with whatever `overrides` say. */
export function makeTestDriver(
  places: QemuPlaces,
  imageBytes: Buffer,
  overrides: Partial<QemuDriverDeps> = {},
): SliceDriver {
  return makeQemuDriver({
    places,
    files: makeDiskFiles(places.stateDir),
    commands,
    supervisor: makeDetachedSupervisor({ clock: systemClock, stateDir: places.stateDir }),
    images: sourceOf(imageBytes),
    clock: systemClock,
    log: makeLog("silent"),
    network: "user",
    forcedAccelerator: "tcg",
    diskFreeGib: async () => 100,
    policy: DEFAULT_NETWORK_POLICY,
    ...overrides,
  });
}

/** Makes everything up to a running machine; resolves with how long each part took. */
export async function build(
  driver: SliceDriver,
  spec: SliceSpec,
  facts: CreateContext["facts"] = {},
): Promise<Record<string, number>> {
  const timings: Record<string, number> = {};
  const context = makeContext({ facts });
  const time = async (name: string, work: () => Promise<unknown>): Promise<void> => {
    const startedMs = systemClock.monotonicMs();
    await work();
    timings[name] = Math.round(systemClock.monotonicMs() - startedMs);
  };
  await time("preflight", async () => [await driver.capability(never), await driver.preflight(spec, never)]);
  await time("image", async () => await driver.image.create(spec, context));
  await time("disk", async () => await driver.disk.create(spec, context));
  await time("seed", async () => await driver.seed.create(spec, context));
  await time("network", async () => await driver.network.create(spec, context));
  await time("start", async () => await driver.machine.create(spec, context));
  return timings;
}

/** Runs the terminal's command with a remote command, without a PTY of ours. */
export async function inGuest(
  { argv, env }: TerminalCommand,
  remote: string,
): Promise<{ readonly code: number; readonly text: string }> {
  const [program, ...args] = argv;
  const child = run(program, [...args, remote], { env, timeout: 60_000 });
  child.child.stdin?.end();
  return await child.then(
    ({ stdout }) => ({ code: 0, text: stdout }),
    (error: { code: number; stdout: string; stderr: string }) => ({
      code: error.code,
      text: error.stdout + error.stderr,
    }),
  );
}

/** root of the guest takes the same keys. */
export async function asRoot(
  driver: SliceDriver,
  spec: SliceSpec,
  remote: string,
): Promise<{ readonly code: number; readonly text: string }> {
  const { argv, env } = await driver.machine.terminalCommand(spec);
  const [program, ...args] = argv;
  return await inGuest({ argv: [program, ...args.slice(0, -1), "root@slice"], env }, remote);
}
