import { createHash } from "node:crypto";
import { mkdir, readFile, realpath, rename, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { basename, dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { CardName } from "./cards.ts";
import type { Fault } from "./faults.ts";
import { parseState } from "./parse-state.ts";

/** What a stand-in remembers between calls: one JSON file, for a person to read and to change. */
export interface StandInState {
  readonly driverVersion: string;
  readonly cudaVersion: string;
  readonly gpus: readonly StandInGpu[];
  readonly faults: readonly Fault[];
}

export interface StandInGpu {
  readonly card: CardName;
  readonly uuid: string;
  /** As the driver prints it: 00000000:16:00.0. */
  readonly busId: string;
  readonly serial: string;
  readonly persistence: boolean;
  readonly migMode: boolean;
  readonly migPending: boolean;
  /** Uncorrected memory errors up to the last reset. */
  readonly uncorrectedBefore: number;
  readonly rowsRemapped: number;
  readonly instances: readonly GpuInstance[];
}

export interface GpuInstance {
  readonly id: number;
  readonly profileId: number;
  readonly start: number;
  readonly computeInstances: readonly ComputeInstance[];
}

export interface ComputeInstance {
  readonly id: number;
  readonly profileId: number;
  readonly start: number;
}

/** A hundred callers, each with the lock for some milliseconds, are through long before. */
const LOCK_WAIT_MS = 30_000;

export async function readState(path: string): Promise<StandInState> {
  return parseState(await readFile(path, "utf8"), path);
}

export async function createState(path: string, state: StandInState): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await withLock(path, async () => await replaceState(path, state));
}

/**
 * One change after the other, over all processes. `edit` sees the newest state; null leaves the file as it is. A process that
 * is killed at any instant leaves the old state or the new one, and no lock.
 */
export async function changeState<Result>(
  path: string,
  edit: (state: StandInState) => { readonly state: StandInState | null; readonly result: Result },
): Promise<Result> {
  return await withLock(path, async () => {
    const { state, result } = edit(await readState(path));
    if (state !== null) await replaceState(path, state);
    return result;
  });
}

async function replaceState(path: string, state: StandInState): Promise<void> {
  const next = `${path}.next`;
  await writeFile(next, `${JSON.stringify(state, null, 2)}\n`);
  await rename(next, path);
}

/**
 * The lock is a socket name without a file: the kernel gives it to one process of the host (of its network namespace) at a
 * time and takes it back when that process is gone, however it ended. A lock file would outlive a kill -9.
 */
async function withLock<Result>(path: string, work: () => Promise<Result>): Promise<Result> {
  const place = join(await realpath(dirname(path)), basename(path));
  const name = `\0hostler-stand-in-${createHash("sha256").update(place).digest("hex").slice(0, 32)}`;
  const deadlineMs = performance.now() + LOCK_WAIT_MS;
  let lock = await tryListen(name);
  while (lock === null) {
    if (performance.now() > deadlineMs) throw new Error(`Another process has held the state ${path} for 30 s.`);
    await sleep(2 + 6 * Math.random());
    lock = await tryListen(name);
  }
  try {
    return await work();
  } finally {
    await lock.close();
  }
}

async function tryListen(name: string): Promise<{ close(): Promise<void> } | null> {
  const server = createServer();
  return await new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) =>
      error.code === "EADDRINUSE" ? resolve(null) : reject(error),
    );
    server.listen({ path: name }, () =>
      resolve({ close: async () => await new Promise((closed) => server.close(() => closed())) }),
    );
  });
}
