import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { CreateContext, Facts, Machine, SliceReference } from "../../ports/slice-driver.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { AcceleratorVerdict } from "./accelerator.ts";
import type { AddressPool } from "../network/addresses.ts";
import { exitedError, waitForReadyLine } from "../slices/guest-console.ts";
import { isNameOf, machineArgv, SERIAL_ID } from "./machine-argv.ts";
import type { NetworkMode } from "./network.ts";
import { openQmp, withQmp, type Qmp } from "./qmp.ts";
import { exists } from "../../host/exists.ts";
import { closeSliceFolder, openSliceFolder, removeFolderIfEmpty, replaceFile } from "../slices/slice-folder.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "../slices/slice-paths.ts";
import { makeTerminalCommands } from "./terminal-command.ts";

export interface MachineDeps {
  readonly places: QemuPlaces;
  readonly supervisor: ProcessSupervisor;
  readonly clock: Clock;
  readonly network: NetworkMode;
  readonly addresses: Pick<AddressPool, "portsOf">;
  readonly accelerator: (signal: AbortSignal) => Promise<AcceleratorVerdict>;
  /** How long a guest may take; for tests. */
  readonly readyTimeoutMs?: number;
}

const recordSchema = z.object({ fence: z.string(), specSha256: z.string(), accelerator: z.enum(["kvm", "tcg"]) });
type MachineRecord = z.infer<typeof recordSchema>;
const nameSchema = z.looseObject({ name: z.string().optional() });
const statusSchema = z.looseObject({ status: z.string() });
const START_TIMEOUT_MS = 10_000;
/** Our own image takes seconds; a cloud image under emulation was measured at up to 320 s on a loaded host. */
const READY_TIMEOUT_MS = { kvm: 300_000, tcg: 570_000 };
/** QEMU takes 50 to 100 ms to open it. */
const SOCKET_LOOK_MS = 5;
const STOP_GRACE_MS = 5000;
const CONSOLE_KEPT_BYTES = 65_536;

/** The virtual machine: a QEMU process that outlives the agent and is found again by its name. */
export function makeMachine(deps: MachineDeps): Machine {
  const inspect: Machine["inspect"] = async (slice) => {
    const paths = slicePaths(deps.places, slice);
    const found = await deps.supervisor.inspect(paths.name);
    if (found.state === "running") return (await isRunning(deps, paths, slice)) ? "present" : "partial";
    if (found.state === "exited") return "partial";
    return (await exists(paths.machine)) || (await exists(paths.sockets)) ? "partial" : "absent";
  };
  return {
    inspect,
    create: async (spec, context) => {
      const paths = slicePaths(deps.places, spec);
      await openSliceFolder(paths, spec, context);
      const adopted = await adopt(paths, spec, context, async () => await inspect(spec, context.signal));
      if (adopted !== null) return adopted;
      // What an interrupted start left: a machine that never was handed over has nothing to lose.
      await end(deps, paths, context.signal);
      return await start(deps, paths, { spec, context });
    },
    remove: async (slice, signal) => {
      const paths = slicePaths(deps.places, slice);
      await end(deps, paths, signal);
      await removeFolderIfEmpty(deps.places.runDir);
      await closeSliceFolder(paths);
    },
    waitReady: async (spec, context) => await waitReady(deps, slicePaths(deps.places, spec), context),
    powerDown: async (slice, options) => await powerDown(deps, slicePaths(deps.places, slice), options),
    terminalCommand: makeTerminalCommands(deps),
  };
}

/** A machine that runs as this spec wants it goes on under the new grant. */
async function adopt(
  paths: SlicePaths,
  spec: SliceSpec,
  context: CreateContext,
  inspect: () => Promise<string>,
): Promise<Facts | null> {
  const record = await readRecord(paths);
  if (record === null || (await inspect()) !== "present") return null;
  if (record.specSha256 !== hashOf(spec))
    throw new AppError("journal_conflict", {
      detail: "A machine runs under this name that was made from another spec.",
    });
  await replaceFile(paths.machine, JSON.stringify({ ...record, fence: context.fence } satisfies MachineRecord));
  return { accelerator: record.accelerator };
}

async function start(
  deps: MachineDeps,
  paths: SlicePaths,
  { spec, context }: { readonly spec: SliceSpec; readonly context: CreateContext },
): Promise<Facts> {
  const { fence, signal } = context;
  const { accelerator } = await deps.accelerator(signal);
  await mkdir(paths.sockets, { recursive: true, mode: 0o700 });
  await writeFile(paths.serialLog, "", { mode: 0o600 });
  const record: MachineRecord = { fence, specSha256: hashOf(spec), accelerator };
  await replaceFile(paths.machine, JSON.stringify(record));
  const forwards = await deps.addresses.portsOf(spec);
  const argv = machineArgv(spec, paths, { accelerator, network: deps.network, forwards, fence });
  await deps.supervisor.start(paths.name, argv, { logPath: paths.qemuLog, signal });
  const qmp = await waitForControlSocket(deps, paths, signal);
  try {
    await qmp.run("cont");
  } finally {
    qmp.close();
  }
  return { accelerator };
}

/**
 * Ends the process and forgets its record and sockets. SIGTERM makes QEMU flush its disks and quit, as its `quit` command does,
 * and it reaches a QEMU whose control socket hangs too. The supervisor ends only the process that it started under the name.
 */
async function end(deps: MachineDeps, paths: SlicePaths, signal: AbortSignal): Promise<void> {
  await deps.supervisor.stop(paths.name, { graceMs: STOP_GRACE_MS, signal });
  await rm(paths.sockets, { recursive: true, force: true });
  await rm(paths.machine, { force: true });
  await rm(`${paths.machine}.new`, { force: true });
}

/** Whether the process behind the control socket is this slice's and its processors run. */
async function isRunning(deps: MachineDeps, paths: SlicePaths, slice: SliceReference): Promise<boolean> {
  try {
    return await withQmp(paths.qmp, deps.clock, async (qmp) => {
      const { name = "" } = nameSchema.parse(await qmp.run("query-name"));
      return isNameOf(name, slice) && statusSchema.parse(await qmp.run("query-status")).status === "running";
    });
  } catch (error) {
    if (error instanceof AppError) return false;
    throw error;
  }
}

async function waitForControlSocket(deps: MachineDeps, paths: SlicePaths, signal: AbortSignal): Promise<Qmp> {
  const deadlineMs = deps.clock.monotonicMs() + START_TIMEOUT_MS;
  for (;;) {
    const qmp = await openQmp(paths.qmp, deps.clock).catch(nullIfClosed);
    if (qmp !== null) return qmp;
    if ((await deps.supervisor.inspect(paths.name)).state !== "running") throw await exitedError(paths);
    if (deps.clock.monotonicMs() > deadlineMs)
      throw new AppError("command_timeout", {
        detail: `QEMU did not open its control socket within ${START_TIMEOUT_MS / 1000} s.`,
      });
    await deps.clock.sleep(SOCKET_LOOK_MS, signal);
  }
}

function nullIfClosed(error: unknown): null {
  if (isAppError(error, "machine_exited")) return null;
  throw error;
}

async function waitReady(deps: MachineDeps, paths: SlicePaths, context: CreateContext): Promise<Facts> {
  const { clock, supervisor } = deps;
  const startedMs = clock.monotonicMs();
  const record = await readRecord(paths);
  if (record === null) throw await exitedError(paths);
  await waitForReadyLine(clock, paths, {
    timeoutMs: deps.readyTimeoutMs ?? READY_TIMEOUT_MS[record.accelerator],
    signal: context.signal,
    isRunning: async () => (await supervisor.inspect(paths.name)).state === "running",
  });
  // From now on the tenant can write to the console as fast as it likes: QEMU keeps the end of it, and our disk none.
  const backend = { type: "ringbuf", data: { size: CONSOLE_KEPT_BYTES } };
  await withQmp(paths.qmp, clock, async (qmp) => await qmp.run("chardev-change", { id: SERIAL_ID, backend }));
  return { readyAfterMs: Math.round(clock.monotonicMs() - startedMs) };
}

async function powerDown(
  { clock, supervisor }: MachineDeps,
  paths: SlicePaths,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<boolean> {
  const deadlineMs = clock.monotonicMs() + timeoutMs;
  const isThere = async (): Promise<boolean> => (await supervisor.inspect(paths.name)).state === "running";
  if (!(await isThere())) return true;
  try {
    await withQmp(paths.qmp, clock, async (qmp) => await qmp.run("system_powerdown"));
  } catch (error) {
    // It may have ended by itself just now; a QEMU that does not listen is left to `remove`.
    if (!(error instanceof AppError)) throw error;
    return !(await isThere());
  }
  while (await isThere()) {
    if (clock.monotonicMs() > deadlineMs) return false;
    await clock.sleep(50, signal);
  }
  return true;
}

async function readRecord(paths: SlicePaths): Promise<MachineRecord | null> {
  const text = await readFile(paths.machine, "utf8").catch(() => null);
  return text === null ? null : recordSchema.parse(JSON.parse(text));
}

function hashOf(spec: SliceSpec): string {
  return createHash("sha256").update(JSON.stringify(spec)).digest("hex");
}
