import { createHash } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { parseComputeShare } from "../../journal/host-ledger.ts";
import type { Log } from "../../log.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { CreateContext, Facts, Machine, SliceReference } from "../../ports/slice-driver.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { AcceleratorVerdict } from "./accelerator.ts";
import type { AddressPool } from "../network/addresses.ts";
import { exitedError, waitForReadyLine } from "../slices/guest-console.ts";
import { isNameOf, machineArgv, SERIAL_ID } from "./machine-argv.ts";
import type { Hardware } from "./machine-hardware.ts";
import type { MachineWatch } from "./machine-watch.ts";
import type { NetworkMode } from "./network.ts";
import { readOverlay } from "./overlay-header.ts";
import { passedThrough, requireInGuest, windowMib } from "./pass-through.ts";
import { pinProcessors } from "./pin-processors.ts";
import { firmwareCode, makeFirmwareVars, platformOf, removePlatform, type PlatformDefaults } from "./platform.ts";
import { openQmp, withQmp, type Qmp } from "./qmp.ts";
import { exists } from "../../host/exists.ts";
import { closeSliceFolder, openSliceFolder, removeFolderIfEmpty, replaceFile } from "../slices/slice-folder.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "../slices/slice-paths.ts";
import { makeTerminalCommands } from "./terminal-command.ts";
import { startTpm, stopTpm } from "./tpm.ts";

export interface MachineDeps {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly supervisor: ProcessSupervisor;
  readonly clock: Clock;
  readonly log: Log;
  readonly watch: MachineWatch;
  readonly network: NetworkMode;
  readonly addresses: Pick<AddressPool, "portsOf">;
  readonly platform: PlatformDefaults;
  readonly firmwareFolder: string;
  /** Where the kernel shows its devices. */
  readonly sysfs: string;
  readonly accelerator: (signal: AbortSignal) => Promise<AcceleratorVerdict>;
  /** How long a guest may take; for tests. */
  readonly readyTimeoutMs?: number;
}

const recordSchema = z.object({ fence: z.string(), specSha256: z.string(), accelerator: z.enum(["kvm", "tcg"]) });
type MachineRecord = z.infer<typeof recordSchema>;
const nameSchema = z.looseObject({ name: z.string().optional() });
const statusSchema = z.looseObject({ status: z.string() });
const START_TIMEOUT_MS = 10_000;
/** QEMU fills hugepages, and the kernel pins all memory for devices that are passed through, before it answers. */
const START_TIMEOUT_MS_PER_MIB = 0.5;
/** Our own image takes seconds; a cloud image under emulation was measured at up to 320 s on a loaded host. */
const READY_TIMEOUT_MS = { kvm: 300_000, tcg: 570_000 };
/** QEMU takes 50 to 100 ms to open it. */
const SOCKET_LOOK_MS = 5;
const STOP_GRACE_MS = 5000;
const CONSOLE_KEPT_BYTES = 65_536;

export interface QemuMachine extends Machine {
  /** Null when no machine of the slice answers. */
  status(slice: SliceReference): Promise<string | null>;
}

/** The virtual machine: a QEMU process that outlives the agent and is found again by its name. */
export function makeMachine(deps: MachineDeps): QemuMachine {
  const inspect: Machine["inspect"] = async (slice) => {
    const paths = slicePaths(deps.places, slice);
    const found = await deps.supervisor.inspect(paths.name);
    if (found.state === "running") return (await statusOf(deps, paths, slice)) === "running" ? "present" : "partial";
    if (found.state === "exited") return "partial";
    for (const path of [paths.machine, paths.sockets, paths.platform]) if (await exists(path)) return "partial";
    return "absent";
  };
  return {
    inspect,
    status: async (slice) => await statusOf(deps, slicePaths(deps.places, slice), slice),
    history: async (slice) => await deps.watch.history(slice),
    create: async (spec, context) => {
      const paths = slicePaths(deps.places, spec);
      await openSliceFolder(paths, spec, context);
      const adopted = await adopt(paths, spec, context, async () => await inspect(spec, context.signal));
      if (adopted === null) {
        // What an interrupted start left: a machine that never was handed over has nothing to lose.
        await end(deps, paths, { slice: spec, signal: context.signal });
        const facts = await start(deps, paths, { spec, context });
        deps.watch.follow(spec);
        return facts;
      }
      deps.watch.follow(spec);
      return adopted;
    },
    remove: async (slice, signal) => {
      const paths = slicePaths(deps.places, slice);
      await end(deps, paths, { slice, signal });
      await removePlatform(deps.commands, paths, signal);
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
  const hardware = await hardwareOf(deps, spec, context);
  const { share, devices } = hardware;
  await mkdir(paths.sockets, { recursive: true, mode: 0o700 });
  await writeFile(paths.serialLog, "", { mode: 0o600 });
  const record: MachineRecord = { fence, specSha256: hashOf(spec), accelerator };
  await replaceFile(paths.machine, JSON.stringify(record));
  if (hardware.firmwareCode !== null) await makeFirmwareVars(deps.firmwareFolder, paths);
  if (hardware.hasTpm) await startTpm(deps, paths, signal);
  const forwards = await deps.addresses.portsOf(spec);
  const diskKey = (await exists(paths.diskKey)) ? paths.diskKey : null;
  const dataFile = (await readOverlay(paths.disk))?.dataFile ?? null;
  const settings = { accelerator, network: deps.network, forwards, fence, hardware, diskKey, dataFile };
  const argv = machineArgv(spec, paths, settings);
  const cpus = share?.cpus ?? [];
  const placement = { cpus, mayLockMemory: devices.length > 0 };
  await deps.supervisor.start(paths.name, argv, { logPath: paths.qemuLog, placement, signal });
  const isSlow = devices.length > 0 || (share !== null && share.pages.length > 0);
  const timeoutMs = START_TIMEOUT_MS + (isSlow ? spec.memoryMib * START_TIMEOUT_MS_PER_MIB : 0);
  const qmp = await waitForControlSocket(deps, paths, { timeoutMs, signal });
  try {
    if (cpus.length > 0) await pinProcessors(deps.commands, qmp, { cpus, signal });
    await qmp.run("cont");
  } finally {
    qmp.close();
  }
  return { accelerator, hardware };
}

async function hardwareOf(deps: MachineDeps, spec: SliceSpec, context: CreateContext): Promise<Hardware> {
  const { firmware, hasTpm, hasVsock } = platformOf(spec, deps.platform);
  const devices = passedThrough(context.facts);
  if (spec.gpuUuids.length > devices.length)
    deps.log.info({ gpus: spec.gpuUuids.length }, "the slice holds its GPUs; they are not visible inside the machine");
  return {
    share: parseComputeShare(context.facts["compute"]?.["share"]),
    firmwareCode: firmware === "uefi" ? firmwareCode(deps.firmwareFolder) : null,
    hasTpm,
    vsockCid: hasVsock ? vsockCidOf(spec) : null,
    devices,
    windowMib: await windowMib(deps.sysfs, devices),
  };
}

/** By the slice's name, so that it needs no book of its own; the kernel refuses one that is taken. 0 to 2 are the hosts'. */
function vsockCidOf({ allocationId, generation }: SliceReference): number {
  const digest = createHash("sha256").update(`${allocationId}.${generation}`).digest();
  return 65_536 + (digest.readUInt32BE(0) % 2_000_000_000);
}

/**
 * Ends the process and forgets its record and sockets. SIGTERM makes QEMU flush its disks and quit, as its `quit` command does,
 * and it reaches a QEMU whose control socket hangs too. The supervisor ends only the process that it started under the name.
 */
async function end(
  deps: MachineDeps,
  paths: SlicePaths,
  { slice, signal }: { readonly slice: SliceReference; readonly signal: AbortSignal },
): Promise<void> {
  await deps.supervisor.stop(paths.name, { graceMs: STOP_GRACE_MS, signal });
  await stopTpm(deps, paths, signal);
  await deps.watch.leave(slice);
  await rm(paths.sockets, { recursive: true, force: true });
  await rm(paths.machine, { force: true });
  await rm(`${paths.machine}.new`, { force: true });
}

/** What the process behind the control socket says of its machine; null when it is not this slice's, or does not answer. */
async function statusOf(deps: MachineDeps, paths: SlicePaths, slice: SliceReference): Promise<string | null> {
  try {
    return await withQmp(paths.qmp, deps.clock, async (qmp) => {
      const { name = "" } = nameSchema.parse(await qmp.run("query-name"));
      return isNameOf(name, slice) ? statusSchema.parse(await qmp.run("query-status")).status : null;
    });
  } catch (error) {
    if (error instanceof AppError) return null;
    throw error;
  }
}

async function waitForControlSocket(
  deps: MachineDeps,
  paths: SlicePaths,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<Qmp> {
  const deadlineMs = deps.clock.monotonicMs() + timeoutMs;
  for (;;) {
    const qmp = await openQmp(paths.qmp, deps.clock).catch(nullIfSilent);
    if (qmp !== null) return qmp;
    if ((await deps.supervisor.inspect(paths.name)).state !== "running") throw await exitedError(paths);
    if (deps.clock.monotonicMs() > deadlineMs)
      throw new AppError("command_timeout", {
        detail: `QEMU did not answer on its control socket within ${timeoutMs / 1000} s.`,
      });
    await deps.clock.sleep(SOCKET_LOOK_MS, signal);
  }
}

/** It listens before its memory is filled, and answers after. */
function nullIfSilent(error: unknown): null {
  if (isAppError(error, "machine_exited") || isAppError(error, "command_timeout")) return null;
  throw error;
}

async function waitReady(deps: MachineDeps, paths: SlicePaths, context: CreateContext): Promise<Facts> {
  const { clock, supervisor } = deps;
  const startedMs = clock.monotonicMs();
  const record = await readRecord(paths);
  if (record === null) throw await exitedError(paths);
  const seen = await waitForReadyLine(clock, paths, {
    timeoutMs: deps.readyTimeoutMs ?? READY_TIMEOUT_MS[record.accelerator],
    signal: context.signal,
    wantsDevices: passedThrough(context.facts).length > 0,
    isRunning: async () => (await supervisor.inspect(paths.name)).state === "running",
  });
  // From now on the tenant can write to the console as fast as it likes: QEMU keeps the end of it, and our disk none.
  const backend = { type: "ringbuf", data: { size: CONSOLE_KEPT_BYTES } };
  await withQmp(paths.qmp, clock, async (qmp) => await qmp.run("chardev-change", { id: SERIAL_ID, backend }));
  const readyAfterMs = Math.round(clock.monotonicMs() - startedMs);
  return { readyAfterMs, ...(await requireInGuest(deps.sysfs, context.facts, seen)) };
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
