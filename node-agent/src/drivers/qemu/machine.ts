import { mkdir, open, readFile, rm, writeFile } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { uuidOf } from "@hostler/shared/ids.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { ProcessSupervisor } from "../../host/process-supervisor.ts";
import type { CreateContext, Machine, SliceReference } from "../../ports/slice-driver.ts";
import type { AcceleratorVerdict } from "./accelerator.ts";
import { machineArgv } from "./machine-argv.ts";
import type { NetworkMode } from "./network.ts";
import { withQmp } from "./qmp.ts";
import { closeSliceFolder, exists, openSliceFolder, removeFolderIfEmpty, replaceFile } from "./slice-folder.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "./slice-paths.ts";
import { makeTerminalCommands } from "./terminal-command.ts";

export interface MachineDeps {
  readonly places: QemuPlaces;
  readonly supervisor: ProcessSupervisor;
  readonly clock: Clock;
  readonly network: NetworkMode;
  readonly accelerator: (signal: AbortSignal) => Promise<AcceleratorVerdict>;
}

const recordSchema = z.object({ fence: z.string(), accelerator: z.enum(["kvm", "tcg"]) });
const statusSchema = z.looseObject({ status: z.string() });
const uuidSchema = z.looseObject({ UUID: z.string() });
const START_TIMEOUT_MS = 10_000;
/** Cloud images under emulation take minutes; our own takes seconds. */
const READY_TIMEOUT_MS = 5 * 60_000;
const STOP_GRACE_MS = 5000;

/** The virtual machine: a QEMU process that outlives the agent and is found again by its name. */
export function makeMachine(deps: MachineDeps): Machine {
  const { clock, supervisor } = deps;
  const inspect: Machine["inspect"] = async (slice) => {
    const paths = slicePaths(deps.places, slice);
    const found = await supervisor.inspect(paths.name);
    if (found.state === "absent")
      return (await exists(paths.machine)) || (await exists(paths.sockets)) ? "partial" : "absent";
    return found.state === "running" && (await isRunning(paths, slice, clock)) ? "present" : "partial";
  };
  const remove: Machine["remove"] = async (slice, signal) => {
    const paths = slicePaths(deps.places, slice);
    await supervisor.stop(paths.name, { graceMs: STOP_GRACE_MS, signal });
    await rm(paths.sockets, { recursive: true, force: true });
    await rm(paths.machine, { force: true });
    await removeFolderIfEmpty(deps.places.runDir);
    await closeSliceFolder(paths);
  };
  return {
    inspect,
    remove,
    create: async (spec, context) => {
      const paths = slicePaths(deps.places, spec);
      await refuseLowerFence(paths, context.fence);
      // What an interrupted start left: a machine that never ran has nothing to lose.
      if ((await inspect(spec, context.signal)) === "partial") await remove(spec, context.signal);
      const { accelerator } = await deps.accelerator(context.signal);
      await openSliceFolder(paths, spec);
      await mkdir(paths.sockets, { recursive: true, mode: 0o700 });
      await writeFile(paths.serialLog, "", { mode: 0o600 });
      await replaceFile(paths.machine, JSON.stringify({ fence: context.fence, accelerator }));
      const argv = machineArgv(spec, paths, { accelerator, network: deps.network, fence: context.fence });
      await supervisor.start(paths.name, argv, { logPath: paths.qemuLog, signal: context.signal });
      await waitForControlSocket(deps, paths, context.signal);
      await withQmp(paths.qmp, clock, async (qmp) => await qmp.run("cont"));
      return { accelerator };
    },
    waitReady: async (spec, context) => await waitReady(deps, spec, context),
    powerDown: async (slice, { timeoutMs, signal }) => {
      const paths = slicePaths(deps.places, slice);
      if ((await supervisor.inspect(paths.name)).state !== "running") return true;
      await withQmp(paths.qmp, clock, async (qmp) => await qmp.run("system_powerdown"));
      const deadlineMs = clock.monotonicMs() + timeoutMs;
      while ((await supervisor.inspect(paths.name)).state === "running") {
        if (clock.monotonicMs() > deadlineMs) return false;
        await clock.sleep(50, signal);
      }
      return true;
    },
    terminalCommand: makeTerminalCommands(deps),
  };
}

/** Whether the process behind the control socket is this slice's and its processors run. */
async function isRunning(paths: SlicePaths, slice: SliceReference, clock: Clock): Promise<boolean> {
  try {
    return await withQmp(paths.qmp, clock, async (qmp) => {
      const { UUID } = uuidSchema.parse(await qmp.run("query-uuid"));
      return (
        UUID === uuidOf(slice.allocationId) && statusSchema.parse(await qmp.run("query-status")).status === "running"
      );
    });
  } catch (error) {
    if (error instanceof AppError) return false;
    throw error;
  }
}

/** A grant may touch a machine that an earlier grant made, never one that a later grant made. */
async function refuseLowerFence(paths: SlicePaths, fence: string): Promise<void> {
  const text = await readFile(paths.machine, "utf8").catch(() => null);
  if (text === null) return;
  const made = recordSchema.parse(JSON.parse(text));
  if (BigInt(fence) < BigInt(made.fence))
    throw new AppError("lease_stale", {
      detail: `The machine was made under the fence ${made.fence}; this grant has ${fence}.`,
    });
}

async function waitForControlSocket(deps: MachineDeps, paths: SlicePaths, signal: AbortSignal): Promise<void> {
  const deadlineMs = deps.clock.monotonicMs() + START_TIMEOUT_MS;
  while (!(await exists(paths.qmp))) {
    if ((await deps.supervisor.inspect(paths.name)).state !== "running") throw await exitedError(paths);
    if (deps.clock.monotonicMs() > deadlineMs)
      throw new AppError("command_timeout", {
        detail: `QEMU did not open its control socket within ${START_TIMEOUT_MS / 1000} s.`,
      });
    await deps.clock.sleep(10, signal);
  }
}

/** The guest writes a line with the token of its seed to the serial console; nobody else knows the token. */
async function waitReady(
  deps: MachineDeps,
  spec: SliceSpec,
  context: CreateContext,
): Promise<{ readyAfterMs: number }> {
  const paths = slicePaths(deps.places, spec);
  const token = (await readFile(paths.readyToken, "utf8")).trim();
  const startedMs = deps.clock.monotonicMs();
  for (let round = 0; ; round += 1) {
    if ((await readFile(paths.serialLog, "utf8")).includes(`HOSTLER-READY ${token}`))
      return { readyAfterMs: Math.round(deps.clock.monotonicMs() - startedMs) };
    if (round % 5 === 0 && (await deps.supervisor.inspect(paths.name)).state !== "running")
      throw await exitedError(paths);
    if (deps.clock.monotonicMs() - startedMs > READY_TIMEOUT_MS) {
      throw new AppError("guest_not_ready", {
        detail: `No sign of the guest for ${READY_TIMEOUT_MS / 1000} s. Its console ends: ${await tailOf(paths.serialLog)}`,
      });
    }
    await deps.clock.sleep(50, context.signal);
  }
}

async function exitedError(paths: SlicePaths): Promise<AppError> {
  return new AppError("machine_exited", {
    detail: `QEMU ended. It said: ${await tailOf(paths.qemuLog)} The console ends: ${await tailOf(paths.serialLog)}`,
  });
}

/** The last printable text of a log, short enough for a message. */
async function tailOf(path: string): Promise<string> {
  const file = await open(path, "r").catch(() => null);
  if (file === null) return "(nothing)";
  try {
    const { size } = await file.stat();
    const buffer = Buffer.alloc(Math.min(size, 1200));
    await file.read(buffer, 0, buffer.length, size - buffer.length);
    return (
      buffer
        .toString("utf8")
        .replaceAll(/[^\x20-\x7e\n]/g, "")
        .trim()
        .slice(-700) || "(nothing)"
    );
  } finally {
    await file.close();
  }
}
