import { createHash } from "node:crypto";
import { readFile, rm, rmdir, writeFile } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { requireSuccess } from "../../host/host-commands.ts";
import { startTimeOf } from "../../host/process-start-time.ts";
import type { HostScope } from "../../host/host-scope.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import {
  type CreateContext,
  type Facts,
  isSameSlice,
  type Machine,
  type SliceReference,
} from "../../ports/slice-driver.ts";
import { tapName } from "../network/host-links.ts";
import { exitedError, waitForReadyLine } from "../slices/guest-console.ts";
import { factsOfSeen, missingOf } from "../slices/promised-devices.ts";
import { exists } from "../../host/exists.ts";
import { closeSliceFolder, openSliceFolder, removeFolderIfEmpty, replaceFile } from "../slices/slice-folder.ts";
import { containerPaths, firstIdOf, type ContainerPaths } from "./container-paths.ts";
import { GUEST_LINK, provenDevices } from "./guest-init.ts";
import { deviceOfMount, mountDisk, unmountDisk } from "./mounts.ts";
import { hasOwnLink, isLinkUp, raiseLink, requireNoForeignLink, type NetworkDeps } from "./network.ts";
import type { ContainerRuntime, ContainerSettings } from "./runtime.ts";
import { findLeader, killContainer, sliceOfProcess } from "./slice-processes.ts";
import { terminalCommand } from "./terminal-command.ts";

export interface MachineDeps extends NetworkDeps {
  /** Programs with the host's own rights: mounts. */
  readonly host: HostCommands;
  readonly scope: HostScope;
  readonly supervisor: ProcessSupervisor;
  readonly clock: Clock;
  /** The runtime that was shown to work here, and the busybox for it; rejects with `driver_unavailable`. */
  readonly runtime: (signal: AbortSignal) => Promise<{ readonly runtime: ContainerRuntime; readonly busybox: string }>;
  /** How long a guest may take; for tests. */
  readonly readyTimeoutMs?: number;
}

const recordSchema = z.object({
  fence: z.string(),
  specSha256: z.string(),
  firstId: z.int(),
  runtime: z.enum(["systemd-nspawn", "podman"]),
  leader: z.object({ pid: z.int(), startTime: z.string() }).nullable(),
});
type MachineRecord = z.infer<typeof recordSchema>;
const START_TIMEOUT_MS = 20_000;
const READY_TIMEOUT_MS = 60_000;
const STOP_GRACE_MS = 5000;
const END_MS_MAX = 1000;

/** The container: a process that outlives the agent and is found again by its name, with its disk mounted while it lives. */
export function makeMachine(deps: MachineDeps): Machine {
  const inspect: Machine["inspect"] = async (slice, signal) => {
    const paths = containerPaths(deps.places, slice);
    const found = await deps.supervisor.inspect(paths.name);
    if (found.state === "running")
      return (await isWhole(deps, { slice, pid: found.pid, signal })) ? "present" : "partial";
    if (found.state === "exited") return "partial";
    const hasTraces =
      (await exists(paths.machine)) || (await deviceOfMount(paths.root)) !== null || (await exists(paths.sockets));
    return hasTraces ? "partial" : "absent";
  };
  return {
    inspect,
    create: async (spec, context) => {
      const paths = containerPaths(deps.places, spec);
      await openSliceFolder(paths, spec, context);
      const adopted = await adopt(deps, { paths, spec, context });
      if (adopted !== null) return adopted;
      // What an interrupted start left: a container that never was handed over has nothing to lose.
      await end(deps, spec, context.signal);
      return await start(deps, { paths, spec, context });
    },
    remove: async (slice, signal) => {
      await end(deps, slice, signal);
      await removeFolderIfEmpty(deps.places.runDir);
      await closeSliceFolder(containerPaths(deps.places, slice));
    },
    waitReady: async (spec, context) => await waitReady(deps, containerPaths(deps.places, spec), context),
    powerDown: async (slice, options) => await powerDown(deps, containerPaths(deps.places, slice), options),
    terminalCommand: async (slice) => await terminalCommand(deps, slice),
  };
}

interface Making {
  readonly paths: ContainerPaths;
  readonly spec: SliceSpec;
  readonly context: CreateContext;
}

/** A container that runs as this spec wants it goes on under the new grant. */
async function adopt(deps: MachineDeps, { paths, spec, context }: Making): Promise<Facts | null> {
  const record = await readRecord(paths);
  const found = await deps.supervisor.inspect(paths.name);
  if (record === null || found.state !== "running" || !(await isContainerOf(spec, found.pid))) return null;
  if (record.specSha256 !== hashOf(spec))
    throw new AppError("journal_conflict", {
      detail: "A container runs under this name that was made from another spec.",
    });
  // An agent that died between the start and here left the host's end closed.
  if (!(await isLinkUp(deps, spec, context.signal))) await raiseLink(deps, spec, context.signal);
  await replaceFile(paths.machine, JSON.stringify({ ...record, fence: context.fence } satisfies MachineRecord));
  return { accelerator: "none", runtime: record.runtime };
}

async function start(deps: MachineDeps, { paths, spec, context }: Making): Promise<Facts> {
  const { fence, signal } = context;
  const { runtime, busybox } = await deps.runtime(signal);
  const firstId = firstIdOf(await deps.addresses.allocate(spec, signal));
  await requireNoForeignLink(deps, spec, signal);
  await writeFile(paths.serialLog, "", { mode: 0o600 });
  const record: MachineRecord = { fence, specSha256: hashOf(spec), firstId, runtime: runtime.name, leader: null };
  await replaceFile(paths.machine, JSON.stringify(record));
  await mountDisk(deps.host, { path: paths.disk, root: paths.root }, signal);
  const argv = runtime.argv({ spec, paths, fence, firstId, busybox, ...givenDevices(context) });
  const limits = { memoryMib: spec.memoryMib, vcpus: spec.vcpus };
  await deps.supervisor.start(paths.name, argv, { logPath: paths.serialLog, limits, signal });
  try {
    const leader = await waitForStart(deps, { paths, slice: spec, runtime, signal });
    if (runtime.cable === "host") await plugIn(deps, { paths, leader, signal });
    await raiseLink(deps, spec, signal);
    const startTime = await startTimeOf(leader);
    const known: MachineRecord = { ...record, leader: startTime === null ? null : { pid: leader, startTime } };
    await replaceFile(paths.machine, JSON.stringify(known));
  } catch (error) {
    if (signal.aborted || !(await endsSoon(deps, paths.name, signal))) throw error;
    // Whatever failed around it: it ended, and its last words say why.
    throw await exitedError(paths);
  }
  return { accelerator: "none", runtime: runtime.name };
}

const grantSchema = z.object({
  deviceNodes: z.array(z.string()).default([]),
  files: z.array(z.object({ source: z.string(), target: z.string() })).default([]),
});

/** What the slice's GPUs are used by, as the phase that bound them wrote it down. */
function givenDevices({ facts }: CreateContext): Pick<ContainerSettings, "devices" | "files"> {
  const { deviceNodes, files } = grantSchema.parse(facts["bind"] ?? {});
  return { devices: deviceNodes, files };
}

/** The runtime outlives what ran in it by a moment, in which the network is gone already. */
async function endsSoon({ clock, supervisor }: MachineDeps, name: string, signal: AbortSignal): Promise<boolean> {
  const deadlineMs = clock.monotonicMs() + END_MS_MAX;
  while ((await supervisor.inspect(name)).state === "running") {
    if (clock.monotonicMs() > deadlineMs) return false;
    await clock.sleep(20, signal);
  }
  return true;
}

/**
 * Ends the container and forgets its record, mount and folder. What runs in it is killed first, so that the runtime ends by
 * itself and cleans up; the file system is the host's and loses nothing. A runtime that was killed instead leaves what ran in it
 * behind: so once more after its end.
 */
async function end(deps: MachineDeps, slice: SliceReference, signal: AbortSignal): Promise<void> {
  const paths = containerPaths(deps.places, slice);
  const addresses = await deps.addresses.find(slice);
  const record = await readRecord(paths);
  const firstId = record?.firstId ?? (addresses === null ? null : firstIdOf(addresses));
  const killAll = async (): Promise<void> => {
    if (firstId === null) return;
    const traces = { firstId, device: await deviceOfMount(paths.root), leader: record?.leader ?? null };
    await killContainer(deps.clock, traces, signal);
  };
  await killAll();
  await deps.supervisor.stop(paths.name, { graceMs: STOP_GRACE_MS, signal });
  await killAll();
  await unmountDisk(deps.host, paths.root, signal);
  // Never with what is in them: a disk may be mounted there after all.
  await removeFolderIfEmpty(paths.root);
  await removeFolderIfEmpty(paths.sockets);
  // It is empty, and on most hosts nspawn has removed it itself.
  await rmdir(paths.propagation).catch(() => undefined);
  await rm(paths.machine, { force: true });
  await rm(`${paths.machine}.new`, { force: true });
}

/** Whether the process is this slice's container, its first process lives and its cable is plugged in. */
async function isWhole(
  deps: MachineDeps,
  found: { readonly slice: SliceReference; readonly pid: number; readonly signal: AbortSignal },
): Promise<boolean> {
  const { slice, pid, signal } = found;
  return (await isContainerOf(slice, pid)) && (await isLinkUp(deps, slice, signal));
}

export async function isContainerOf(slice: SliceReference, pid: number): Promise<boolean> {
  const owner = await sliceOfProcess(pid);
  return owner !== null && isSameSlice(owner, slice) && (await findLeader(pid)) !== null;
}

/** Makes the cable with its other end in the container, where the runtime leaves that to us. */
async function plugIn(
  deps: MachineDeps,
  cable: { readonly paths: ContainerPaths; readonly leader: number; readonly signal: AbortSignal },
): Promise<void> {
  const peer = ["peer", "name", GUEST_LINK, "netns", String(cable.leader)];
  const argv = ["ip", "link", "add", "name", tapName(cable.paths.name), "type", "veth", ...peer] as const;
  requireSuccess(argv, await deps.host.run(argv, { timeoutMs: START_TIMEOUT_MS, signal: cable.signal }));
}

/** Resolves with the container's first process, when that is there and a cable that the runtime makes is plugged in. */
async function waitForStart(
  deps: MachineDeps,
  starting: {
    readonly paths: ContainerPaths;
    readonly slice: SliceReference;
    readonly runtime: ContainerRuntime;
    readonly signal: AbortSignal;
  },
): Promise<number> {
  const { paths, slice, runtime, signal } = starting;
  const deadlineMs = deps.clock.monotonicMs() + START_TIMEOUT_MS;
  for (;;) {
    const found = await deps.supervisor.inspect(paths.name);
    if (found.state !== "running") throw await exitedError(paths);
    const leader = await findLeader(found.pid);
    if (leader !== null && (runtime.cable === "host" || (await hasOwnLink(deps, slice, signal)))) return leader;
    if (deps.clock.monotonicMs() > deadlineMs)
      throw new AppError("command_timeout", {
        detail: `The container had no first process within ${START_TIMEOUT_MS / 1000} s.`,
      });
    await deps.clock.sleep(10, signal);
  }
}

async function waitReady(deps: MachineDeps, paths: ContainerPaths, context: CreateContext): Promise<Facts> {
  const { clock, supervisor } = deps;
  const startedMs = clock.monotonicMs();
  const given = provenDevices(givenDevices(context).devices);
  const seen = await waitForReadyLine(clock, paths, {
    timeoutMs: deps.readyTimeoutMs ?? READY_TIMEOUT_MS,
    signal: context.signal,
    wantsDevices: given.length > 0,
    isRunning: async () => (await supervisor.inspect(paths.name)).state === "running",
  });
  return { readyAfterMs: Math.round(clock.monotonicMs() - startedMs), ...requireOpened(context, given, seen) };
}

/**
 * Our own init tried them, before anything of the tenant ran: what it could not open is a fault of the host or the GPU. A container that
 * an older agent started tried nothing.
 */
function requireOpened({ facts }: CreateContext, given: readonly string[], seen: readonly string[] | null): Facts {
  const missing = seen === null ? [] : missingOf(given, seen);
  if (missing.length === 0) return factsOfSeen(given, seen);
  throw new AppError("gpu_unavailable", {
    detail: `The container cannot open ${missing.join(", ")}, which its GPUs are used by. Try it as root: head -c0 ${missing[0]}; if that works, the host keeps containers from it.`,
    facts: { gpuUuids: facts["bind"]?.["gpuUuids"] },
  });
}

/** One SIGTERM makes the runtime ask the container's init; a second one would end it at once. */
async function powerDown(
  { clock, supervisor }: MachineDeps,
  paths: ContainerPaths,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<boolean> {
  const deadlineMs = clock.monotonicMs() + timeoutMs;
  const first = await supervisor.inspect(paths.name);
  if (first.state !== "running") return true;
  try {
    process.kill(first.pid, "SIGTERM");
  } catch {
    // It ended in the meantime.
  }
  while ((await supervisor.inspect(paths.name)).state === "running") {
    if (clock.monotonicMs() > deadlineMs) return false;
    await clock.sleep(50, signal);
  }
  return true;
}

async function readRecord(paths: ContainerPaths): Promise<MachineRecord | null> {
  const text = await readFile(paths.machine, "utf8").catch(() => null);
  return text === null ? null : recordSchema.parse(JSON.parse(text));
}

function hashOf(spec: SliceSpec): string {
  return createHash("sha256").update(JSON.stringify(spec)).digest("hex");
}
