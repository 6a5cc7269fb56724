import { readdir, readFile } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { startTimeOf } from "../../host/process-start-time.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import { IDS_PER_SLICE } from "./container-paths.ts";
import { deviceAt, parseMountinfo } from "../../host/mountinfo.ts";

/** The variable by which a container's command line tells whose it is. */
const MARK = "HOSTLER_SLICE";
/** A process that SIGKILL does not end within this hangs in the kernel: no further waiting helps. */
const KILL_PATIENCE_MS = 10_000;

/** What a container's command line carries: the slice and the grant that made it. */
export function markOf(slice: SliceReference, fence: string): string {
  return `${MARK}=${slice.allocationId}.${slice.generation}.${fence}`;
}

/** The slice of a container's command line; null when it is not one of ours. */
export function parseMark(commandLine: string): SliceReference | null {
  const [, allocationId, generation] = /\bHOSTLER_SLICE=(alc_[0-9a-f-]+)\.(\d+)\.\d+\b/.exec(commandLine) ?? [];
  return allocationId === undefined ? null : { allocationId, generation: Number(generation) };
}

/** The slice whose container this process runs; null when it runs none. */
export async function sliceOfProcess(pid: number): Promise<SliceReference | null> {
  return parseMark(await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => ""));
}

/**
 * The first process of the container that this process runs, which is number 1 in its own name space of pids: a child of nspawn;
 * podman's is a child of nobody we know, and is found by the range of ids on podman's command line.
 */
export async function findLeader(pid: number): Promise<number | null> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8").catch(() => "");
  const children = text.split(" ").map(Number).filter(Boolean);
  const candidates = children.length > 0 ? children : await processesOfRange(await firstIdOfProcess(pid));
  for (const candidate of candidates) {
    if (await isFirstOfItsSpace(candidate)) return candidate;
  }
  return null;
}

async function firstIdOfProcess(pid: number): Promise<number> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, "latin1").catch(() => "");
  return Number(/--uidmap=0:(\d+):/.exec(commandLine)?.[1] ?? Number.NaN);
}

/** What tells a slice's container from every other one of this host. */
export interface ContainerTraces {
  /** First of the slice's range of ids; another agent's slice may have the same range. */
  readonly firstId: number;
  /** The block device of its disk, while that is mounted. */
  readonly device: string | null;
  /** The first process as it was written down, so that one that left its disk behind is known as well. */
  readonly leader: ProcessMark | null;
}

/** A pid and when it was started: the two name one process for the life of a boot. */
export interface ProcessMark {
  readonly pid: number;
  readonly startTime: string;
}

/**
 * Kills the container, whoever runs it or nobody, and resolves when it is gone. The kernel ends every process of a name space of
 * pids with its first one, so only that is looked for: it has the slice's ids, which nothing outside of a slice has, and the
 * slice's disk as its root.
 */
export async function killContainer(clock: Clock, traces: ContainerTraces, signal: AbortSignal): Promise<void> {
  const deadlineMs = clock.monotonicMs() + KILL_PATIENCE_MS;
  for (;;) {
    const leaders = await findLeaders(traces);
    const [first] = leaders;
    if (first === undefined) return;
    if (clock.monotonicMs() > deadlineMs)
      throw new AppError("command_timeout", { detail: `Process ${first} of the slice survives SIGKILL.` });
    for (const pid of leaders) kill(pid);
    await clock.sleep(20, signal);
  }
}

async function findLeaders({ firstId, device, leader }: ContainerTraces): Promise<number[]> {
  const found: number[] = [];
  for (const pid of await processesOfRange(firstId)) {
    if (!(await isFirstOfItsSpace(pid))) continue;
    const isKnown = leader?.pid === pid && (await startTimeOf(pid)) === leader.startTime;
    if (isKnown || (device !== null && (await rootDeviceOf(pid)) === device)) found.push(pid);
  }
  return found;
}

/** Number 1 in a name space of pids that is a child of the host's own; deeper ones are the tenant's. */
async function isFirstOfItsSpace(pid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, "latin1").catch(() => "");
  return /^NSpid:\t\d+\t1$/m.test(status);
}

async function rootDeviceOf(pid: number): Promise<string | null> {
  return deviceAt(parseMountinfo(await readFile(`/proc/${pid}/mountinfo`, "utf8").catch(() => "")), "/");
}

async function processesOfRange(firstId: number): Promise<number[]> {
  if (Number.isNaN(firstId)) return [];
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(pids.map(async (pid) => ((await isInRange(pid, firstId)) ? pid : null)));
  return found.filter((pid) => pid !== null);
}

/** By any of its four user ids. A zombie holds nothing any more. */
async function isInRange(pid: number, firstId: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, "latin1").catch(() => "");
  if (/^State:\tZ/m.test(status)) return false;
  const ids = /^Uid:\t(.*)$/m.exec(status)?.[1]?.split("\t").map(Number) ?? [];
  return ids.some((id) => id >= firstId && id < firstId + IDS_PER_SLICE);
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended in the meantime.
  }
}
