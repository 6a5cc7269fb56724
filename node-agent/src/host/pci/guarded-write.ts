import { spawn, type ChildProcess } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { findProgram, type FindProgram } from "../find-program.ts";
import { missingProgram, programEnvironment } from "../host-commands.ts";
import { startTimeOf } from "../process-start-time.ts";
import type { PciRoots } from "./pci-roots.ts";

export type WriteResult =
  | { readonly state: "written" }
  | { readonly state: "refused"; readonly errno: string; readonly message: string }
  /** The writing process hangs in the kernel and survives SIGKILL; it ends when what it waits for ends, or never. */
  | { readonly state: "stuck"; readonly pid: number };

export interface StuckWrite {
  readonly pid: number;
  /** With the pid it names one process for the life of the boot. */
  readonly startTime: string;
  readonly address: string;
}

export interface SysfsWrite {
  /** The function that the write is about: while a write to it hangs, no other is tried. */
  readonly address: string;
  readonly path: string;
  readonly text: string;
  readonly timeoutMs?: number;
}

/** Writes to files of sysfs that may never return. */
export interface SysfsWriter {
  write(request: SysfsWrite): Promise<WriteResult>;
  /** The writes that hang now, of this agent or of one before it. */
  stuckWrites(): Promise<readonly StuckWrite[]>;
}

const MARK = "HOSTLER_SYSFS_WRITE";
const PROGRAM = "dd";
const TIMEOUT_MS = 30_000;
const KILL_GRACE_MS = 500;
const MESSAGE_BYTES_MAX = 4096;

/** The words of the C library, in the language that the program is told to use. */
const ERRNO_OF_WORDS: Readonly<Record<string, string>> = {
  "Operation not permitted": "EPERM",
  "No such file or directory": "ENOENT",
  "Input/output error": "EIO",
  "Resource temporarily unavailable": "EAGAIN",
  "Cannot allocate memory": "ENOMEM",
  "Permission denied": "EACCES",
  "Device or resource busy": "EBUSY",
  "File exists": "EEXIST",
  "No such device": "ENODEV",
  "No such device or address": "ENXIO",
  "Invalid argument": "EINVAL",
  "Inappropriate ioctl for device": "ENOTTY",
  "No space left on device": "ENOSPC",
  "Read-only file system": "EROFS",
  "Operation not supported": "EOPNOTSUPP",
  "Connection timed out": "ETIMEDOUT",
};

/**
 * Each write is done by a process of its own that is never waited for beyond a deadline: an unbind of a device that is held
 * blocks in the kernel, and SIGKILL does not end it. The process carries the device's address in its environment, so a write
 * that hangs is found again by any later agent.
 */
export function makeSysfsWriter(deps: {
  readonly clock: Clock;
  readonly roots: PciRoots;
  readonly find?: FindProgram;
}): SysfsWriter {
  /** Writes of this agent whose time is not over: they are at work, not stuck. */
  const atWork = new Set<number>();
  return {
    stuckWrites: async () => (await findWriters(deps.roots)).filter((write) => !atWork.has(write.pid)),
    write: async (request) => {
      const before = (await findWriters(deps.roots)).find((write) => write.address === request.address);
      if (before !== undefined) return { state: "stuck", pid: before.pid };
      const program = await (deps.find ?? findProgram)(PROGRAM);
      if (program === null) throw missingProgram(PROGRAM);
      const child = spawn(
        program,
        [`of=${request.path}`, "conv=notrunc,nocreat", "bs=4096", "iflag=fullblock", "status=none"],
        {
          detached: true,
          stdio: ["pipe", "ignore", "pipe"],
          env: { ...programEnvironment(), [MARK]: request.address },
        },
      );
      const { pid } = child;
      if (pid !== undefined) atWork.add(pid);
      try {
        return await outcomeOf(deps.clock, child, request);
      } finally {
        if (pid !== undefined) atWork.delete(pid);
      }
    },
  };
}

async function outcomeOf(clock: Clock, child: ChildProcess, request: SysfsWrite): Promise<WriteResult> {
  let said = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => {
    if (said.length < MESSAGE_BYTES_MAX) said += text;
  });
  // A program that ends without reading its input is judged by its exit code.
  child.stdin?.on("error", () => undefined);
  child.stdin?.end(`${request.text}\n`);
  const ended = new Promise<WriteResult>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(judge({ code, signal, said, request })));
  });
  ended.catch(() => "Thrown to whoever waits below, or nobody does any more.");
  const timeoutMs = request.timeoutMs ?? TIMEOUT_MS;
  const first = await within(clock, ended, timeoutMs);
  if (first !== null) return first;
  child.kill("SIGKILL");
  const afterKill = await within(clock, ended, KILL_GRACE_MS);
  if (afterKill !== null) return afterKill;
  child.stdin?.destroy();
  child.stderr?.destroy();
  child.unref();
  // A process that could not be started has no pid, and rejects above.
  return { state: "stuck", pid: child.pid ?? 0 };
}

function judge(end: {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly said: string;
  readonly request: SysfsWrite;
}): WriteResult {
  if (end.code === 0) return { state: "written" };
  if (end.signal !== null)
    return { state: "refused", errno: "ETIMEDOUT", message: `The write to ${end.request.path} did not end in time.` };
  const message = end.said.trim().split("\n")[0]?.slice(0, 500) ?? "";
  const words = message.slice(message.lastIndexOf(": ") + 2);
  return { state: "refused", errno: ERRNO_OF_WORDS[words] ?? "UNKNOWN", message };
}

async function within<T>(clock: Clock, work: Promise<T>, timeoutMs: number): Promise<T | null> {
  const over = new AbortController();
  const late = clock.sleep(timeoutMs, over.signal).then(
    () => null,
    () => null,
  );
  try {
    return await Promise.race([work, late]);
  } finally {
    over.abort();
  }
}

/**
 * Only processes with the program's name are looked into: reading the environment of a foreign process that hangs on its own
 * memory would hang the reader too.
 */
async function findWriters(roots: PciRoots): Promise<readonly StuckWrite[]> {
  const pids = (await readdir(roots.proc)).filter((name) => /^\d+$/.test(name));
  const found: StuckWrite[] = [];
  for (const pid of pids) {
    const command = await readFile(join(roots.proc, pid, "comm"), "utf8").catch(() => "");
    if (command.trim() !== PROGRAM) continue;
    const environment = await readFile(join(roots.proc, pid, "environ"), "utf8").catch(() => "");
    const mark = environment.split("\0").find((variable) => variable.startsWith(`${MARK}=`));
    const startTime = await startTimeOf(Number(pid));
    if (mark !== undefined && startTime !== null)
      found.push({ pid: Number(pid), startTime, address: mark.slice(MARK.length + 1) });
  }
  return found;
}
