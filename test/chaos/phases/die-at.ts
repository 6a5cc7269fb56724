import childProcess, { type ChildProcess } from "node:child_process";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import fs, { type FileHandle } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { join } from "node:path";
import { DEATH_FOLDER_VARIABLE, type Death, type DeathPlan, type PhaseTrace } from "./death-plan.ts";

/**
 * Loaded by Node before the agent's own first line (`--import`), so that the real program can be killed at an instant that
 * nobody outside could meet. It wraps what the agent does to its host, counts, and sends SIGKILL to its own process: nothing is
 * flushed, closed or told. Without a plan it changes nothing, and the product has no line for it.
 */
interface JournalLine {
  readonly kind: string;
  readonly task?: string;
  readonly phase?: string;
  readonly direction?: string;
  readonly status?: string;
  readonly durationMs?: number;
}

const folder = process.env[DEATH_FOLDER_VARIABLE] ?? "";
/** What the agent writes for itself, at any time, whatever a phase does. */
const NOT_OF_A_PHASE = /\/(?:journal|outbox)(?:\/|$)|\/(?:status|identity|session|high-water-mark)\.json|\/clean-end/;
/** Acts since the `begin` of each phase that has not ended. */
const open = new Map<string, number>();

function readPlan(): DeathPlan | null {
  try {
    return JSON.parse(readFileSync(join(folder, "plan.json"), "utf8")) as DeathPlan;
  } catch {
    // There is none now.
    return null;
  }
}

function die(death: Death, where: string): void {
  writeFileSync(join(folder, "died.json"), JSON.stringify({ ...death, where, atMs: Date.now() }));
  process.kill(process.pid, "SIGKILL");
}

function keyOf({ task, phase, direction }: Pick<JournalLine, "task" | "phase" | "direction">): string {
  return `${task} ${phase} ${direction}`;
}

/** The death that is planned for the phase of this record. */
function deathIn(line: JournalLine): Death | null {
  const death = readPlan()?.death ?? null;
  return death !== null && keyOf(death) === keyOf(line) ? death : null;
}

function beforeWrite(line: JournalLine): void {
  const refused = line.kind === "begin" && line.direction === "apply" ? line.phase : line.kind;
  const { refuse = null } = readPlan() ?? {};
  if (refuse !== null && refused === refuse) throw new Error(`The journal cannot take ${refuse}, by plan.`);
  if (line.kind !== "end") return;
  const death = deathIn(line);
  // Also for what had no occasion: there were fewer acts than last time, or less time.
  if (death !== null && !/^end(?:ed| unsynced)$/.test(death.instant.kind)) die(death, "before end");
}

function beforeSync(line: JournalLine): void {
  const death = deathIn(line);
  if (death?.instant.kind === `${line.kind} unsynced`) die(death, death.instant.kind);
}

function afterSync(line: JournalLine): void {
  const key = keyOf(line);
  const death = deathIn(line);
  if (line.kind === "begin") {
    open.set(key, 0);
    if (death?.instant.kind === "begun") die(death, "begun");
    if (death?.instant.kind === "moment") {
      const { afterMs } = death.instant;
      setTimeout(() => die(death, `${afterMs} ms after begin`), afterMs).unref();
    }
  }
  if (line.kind !== "end") return;
  if (death?.instant.kind === "ended") die(death, "ended");
  const { task = "", phase = "", direction = "", status = "", durationMs = 0 } = line;
  const trace: PhaseTrace = { task, phase, direction, status, acts: open.get(key) ?? 0, durationMs };
  if (readPlan() !== null) appendFileSync(join(folder, "trace.jsonl"), `${JSON.stringify(trace)}\n`);
  open.delete(key);
}

/** Counts an act for all phases that are open, and resolves with what is to be called once it is done. */
function act(what: string): () => void {
  if (open.size === 0) return () => undefined;
  const death = readPlan()?.death ?? null;
  for (const [key, acts] of open) open.set(key, acts + 1);
  const number = death === null ? 0 : (open.get(keyOf(death)) ?? 0);
  const isMeant = death !== null && "act" in death.instant && death.instant.act === number;
  if (!isMeant) return () => undefined;
  if (death.instant.kind === "before act") die(death, `before act ${number}: ${what}`);
  return () => die(death, `after act ${number}: ${what}`);
}

function watchJournal(file: FileHandle): void {
  const writeFile = file.writeFile.bind(file);
  const sync = file.sync.bind(file);
  let last: JournalLine | null = null;
  file.writeFile = async (data, options) => {
    last = JSON.parse(String(data)) as JournalLine;
    beforeWrite(last);
    await writeFile(data, options);
  };
  file.sync = async () => {
    if (last !== null) beforeSync(last);
    await sync();
    if (last !== null) afterSync(last);
  };
}

const realOpen = fs.open.bind(fs);
fs.open = async (path, flags, mode) => {
  const name = String(path);
  const isForWriting = flags !== undefined && flags !== "r" && flags !== 0;
  const done = isForWriting && !NOT_OF_A_PHASE.test(name) ? act(`open ${name}`) : () => undefined;
  const file = await realOpen(path, flags, mode);
  done();
  if (isForWriting && name.endsWith(".jsonl")) watchJournal(file);
  return file;
};

type PathCall = (path: string, ...rest: unknown[]) => Promise<unknown>;
for (const name of ["rename", "rm", "rmdir", "mkdir", "mkdtemp", "writeFile", "truncate", "chmod"] as const) {
  const table = fs as unknown as Record<string, PathCall>;
  const real = table[name]?.bind(fs) as PathCall;
  table[name] = async (path, ...rest) => {
    const done = NOT_OF_A_PHASE.test(String(path)) ? () => undefined : act(`${name} ${String(path)}`);
    const result = await real(path, ...rest);
    done();
    return result;
  };
}

/** Programs of the host go through one process of ours: an order is a start, news of the same number is an end. */
function watchRunner(runner: ChildProcess): ChildProcess {
  const ends = new Map<number, () => void>();
  const send = runner.send.bind(runner) as (order: unknown) => boolean;
  runner.send = (order: { id: number; run?: { program: string; args: string[] } }) => {
    if (order.run !== undefined)
      ends.set(order.id, act([order.run.program, ...order.run.args].join(" ").slice(0, 200)));
    return send(order);
  };
  runner.prependListener("message", (news) => ends.get((news as { id: number }).id)?.());
  return runner;
}

const realFork = childProcess.fork.bind(childProcess) as (...args: unknown[]) => ChildProcess;
childProcess.fork = (...args: unknown[]) => watchRunner(realFork(...args));
const realSpawn = childProcess.spawn.bind(childProcess) as (...args: unknown[]) => ChildProcess;
childProcess.spawn = ((...args: unknown[]) => {
  const done = act(`spawn ${String(args[0])}`);
  const child = realSpawn(...args);
  child.once("spawn", done);
  return child;
}) as typeof childProcess.spawn;
syncBuiltinESMExports();
