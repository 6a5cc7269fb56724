import { spawn } from "node:child_process";
import { mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { exists } from "./exists.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, describeError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { FinishedCommand } from "../ports/command-log.ts";
import type { ProcessPlacement, ProcessState, ProcessSupervisor } from "../ports/process-supervisor.ts";
import { formatCpuList } from "./compute/cpu-list.ts";
import { readBootId } from "./facts.ts";
import { findProgram, searchFolders, type FindProgram } from "./find-program.ts";
import { locateProgram } from "./locate-program.ts";
import { isMissing, missingProgram, programEnvironment } from "./host-commands.ts";
import { memoryLockPrefix } from "./memory-lock.ts";
import { startTimeOf } from "./process-start-time.ts";

/** Carried in the environment of every program, so that it is found although its record was never written. */
const MARK = "HOSTLER_SUPERVISED";
const RECORDED = ".json";
/** Stands from before a start until its record does: only then is every process of the host asked for its mark. */
const STARTING = ".starting";
/** A process that SIGKILL does not end within this hangs in the kernel: no further waiting helps. */
const KILL_PATIENCE_MS = 10_000;

const recordSchema = z.object({ pid: z.int(), startTime: z.string(), bootId: z.string() });
type ProcessRecord = z.infer<typeof recordSchema>;

/**
 * Detached processes, each a session of its own with its output in a log file, known by a record with pid, start time and boot.
 * The three name one process for ever, so a pid that was given to somebody else is never killed. An agent that died between
 * the start and the record finds the note of the start, and the process by the mark in its environment.
 */
export function makeDetachedSupervisor(deps: {
  readonly clock: Clock;
  readonly stateDir: string;
  readonly find?: FindProgram;
  /** Told of each program that was started, or could not be. */
  readonly note?: (command: FinishedCommand) => void;
}): ProcessSupervisor {
  const folder = join(deps.stateDir, "processes");
  const recordPath = (name: string): string => join(folder, `${name}${RECORDED}`);
  const startingPath = (name: string): string => join(folder, `${name}${STARTING}`);
  const mark = (name: string): string => join(folder, name);

  const inspect = async (name: string): Promise<ProcessState> => {
    const record = await readRecord(recordPath(name));
    if (record !== null && (await isAlive(record))) return { state: "running", pid: record.pid };
    if (record !== null) return { state: "exited" };
    if (!(await exists(startingPath(name))) && !(await exists(recordPath(name)))) return { state: "absent" };
    const pid = (await findMarked()).get(mark(name));
    return pid === undefined ? { state: "absent" } : { state: "running", pid };
  };
  return {
    inspect,
    names: async (prefix = "") => {
      const files = await readdir(folder).catch(() => []);
      const namesOf = (suffix: string): string[] =>
        files.filter((file) => file.endsWith(suffix)).map((file) => file.slice(0, -suffix.length));
      const starting = namesOf(STARTING);
      const marked = starting.length === 0 ? null : await findMarked();
      const all = new Set([...namesOf(RECORDED), ...starting.filter((name) => marked?.has(mark(name)) === true)]);
      return [...all].filter((name) => name.startsWith(prefix)).toSorted();
    },
    start: async (name, argv, { logPath, placement, signal }) => {
      signal.throwIfAborted();
      if ((await inspect(name)).state === "running")
        throw new AppError("conflict", { detail: `A process runs under the name ${name} already.` });
      const command = await commandOf(deps.find, argv, placement);
      await mkdir(folder, { recursive: true, mode: 0o700 });
      // From here until the new record is written, only note and mark tell: an old record would hide the process.
      await writeFile(startingPath(name), "", { mode: 0o600 });
      await rm(recordPath(name), { force: true });
      const spawned = async (): Promise<number> => await spawnDetached(command, { logPath, mark: mark(name) });
      const pid = await noted(deps, command, spawned).catch(async (error: unknown) => {
        await rm(startingPath(name), { force: true });
        throw isMissing(error) ? missingProgram(argv[0], error) : error;
      });
      // A process that ended already has no start time; the record then says "exited", which is true.
      await writeRecord(recordPath(name), {
        pid,
        startTime: (await startTimeOf(pid)) ?? "ended",
        bootId: await readBootId(),
      });
      await rm(startingPath(name), { force: true });
    },
    stop: async (name, { graceMs, signal }) => {
      const killAtMs = deps.clock.monotonicMs() + graceMs;
      let sent: NodeJS.Signals | null = null;
      for (let found = await inspect(name); found.state === "running"; found = await inspect(name)) {
        const nowMs = deps.clock.monotonicMs();
        if (nowMs > killAtMs + KILL_PATIENCE_MS)
          throw new AppError("command_timeout", { detail: `Process ${found.pid} of ${name} survives SIGKILL.` });
        const due = nowMs >= killAtMs ? "SIGKILL" : "SIGTERM";
        if (due !== sent) killSession(found.pid, due);
        sent = due;
        await deps.clock.sleep(20, signal);
      }
      await rm(recordPath(name), { force: true });
      await rm(startingPath(name), { force: true });
    },
  };
}

async function found(find: FindProgram, name: string): Promise<string> {
  const program = await find(name);
  if (program === null) throw missingProgram(name);
  return program;
}

/** Behind another program nobody would tell that it is missing: there it is looked for first. */
async function commandOf(
  find: FindProgram | undefined,
  argv: readonly [string, ...string[]],
  placement?: ProcessPlacement,
): Promise<readonly string[]> {
  const [name, ...args] = argv;
  const before = await placedBy(find ?? findProgram, placement);
  const isFirst = find === undefined && before.length === 0;
  return [...before, isFirst ? locateProgram(name, searchFolders()) : await found(find ?? findProgram, name), ...args];
}

/** Programs that set their own limits and then become the one that follows, under the same pid. */
async function placedBy(find: FindProgram, placement?: ProcessPlacement): Promise<readonly string[]> {
  const { cpus = [], mayLockMemory = false } = placement ?? {};
  const [prlimit, ...limits] = mayLockMemory ? await memoryLockPrefix() : [];
  return [
    ...(prlimit === undefined ? [] : [await found(find, prlimit), ...limits]),
    ...(cpus.length > 0 ? [await found(find, "taskset"), "--cpu-list", formatCpuList(cpus)] : []),
  ];
}

/** Its output is in its own log file. */
async function noted(
  { clock, note = () => undefined }: { readonly clock: Clock; readonly note?: (command: FinishedCommand) => void },
  argv: readonly string[],
  start: () => Promise<number>,
): Promise<number> {
  const command = { argv, startedAt: clock.now(), exitCode: null, signal: null, stdout: "" };
  const startedMs = clock.monotonicMs();
  const say = (end: FinishedCommand["end"], stderr: string): void =>
    note({ ...command, end, stderr, durationMs: clock.monotonicMs() - startedMs });
  try {
    const pid = await start();
    say("left_running", "");
    return pid;
  } catch (error) {
    say("not_started", describeError(error));
    throw error;
  }
}

async function spawnDetached(
  argv: readonly string[],
  options: { readonly logPath: string; readonly mark: string },
): Promise<number> {
  const [program = "", ...args] = argv;
  const log = await open(options.logPath, "a", 0o600);
  try {
    const env = { ...programEnvironment(), [MARK]: options.mark };
    const child = spawn(program, args, { detached: true, stdio: ["ignore", log.fd, log.fd], cwd: "/", env });
    const pid = await new Promise<number>((resolve, reject) => {
      child.once("error", reject);
      child.once("spawn", () => resolve(child.pid ?? 0));
    });
    child.unref();
    return pid;
  } finally {
    await log.close();
  }
}

async function isAlive(record: ProcessRecord): Promise<boolean> {
  return record.bootId === (await readBootId()) && (await startTimeOf(record.pid)) === record.startTime;
}

/** All marked processes of this host by their mark; the first one of a session is its leader and carries the lowest pid. */
async function findMarked(): Promise<ReadonlyMap<string, number>> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = new Map<string, number>();
  for (const pid of pids.toSorted((a, b) => b - a)) {
    const environment = await readFile(`/proc/${pid}/environ`, "latin1").catch(() => "");
    const entry = environment.split("\0").find((text) => text.startsWith(`${MARK}=`));
    if (entry !== undefined && (await startTimeOf(pid)) !== null) found.set(entry.slice(MARK.length + 1), pid);
  }
  return found;
}

async function readRecord(path: string): Promise<ProcessRecord | null> {
  const text = await readFile(path, "utf8").catch(() => null);
  if (text === null) return null;
  try {
    return recordSchema.parse(JSON.parse(text));
  } catch {
    // Torn by a power cut; its process went with the power.
    return null;
  }
}

async function writeRecord(path: string, record: ProcessRecord): Promise<void> {
  await writeFile(`${path}.new`, JSON.stringify(record), { mode: 0o600 });
  await rename(`${path}.new`, path);
}

/** The program and all that it started: it leads a session, so its group has its pid. */
function killSession(pid: number, signal: NodeJS.Signals): void {
  for (const target of [-pid, pid]) {
    try {
      process.kill(target, signal);
    } catch {
      // It ended in the meantime, or leads no group.
    }
  }
}
