import { spawn, type ChildProcess } from "node:child_process";
import { createWriteStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { once } from "node:events";
import { systemClock } from "@hostler/shared/clock.ts";

/** One of our programs as a real process: started as an operator would, killed as a fault would. */
export interface Program {
  readonly name: string;
  readonly pid: number;
  readonly logPath: string;
  /** Resolves with the exit code, or the signal's name, when the process ended. */
  readonly exited: Promise<number | NodeJS.Signals>;
  /** SIGTERM, then SIGKILL after `graceMs`. Resolves when it is gone. */
  stop(graceMs?: number): Promise<void>;
  kill(signal: NodeJS.Signals): void;
  /** The end of its log, for messages about a failure. */
  logTail(lines?: number): Promise<string>;
}

export interface ProgramOptions {
  readonly name: string;
  /** Arguments for Node: options of its own, the script, and what is for the script. */
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly logPath: string;
  /** Put before the command, such as `ip netns exec NAME`. */
  readonly prefix?: readonly string[];
}

/** Starts a program with its output in a log file. It dies with nobody: whoever starts it stops it. */
export function startProgram(options: ProgramOptions): Program {
  const log = createWriteStream(options.logPath, { flags: "a", mode: 0o600 });
  const [command = process.execPath, ...args] = [...(options.prefix ?? []), process.execPath, ...options.args];
  const child: ChildProcess = spawn(command, args, {
    env: { ...process.env, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  child.stdout?.pipe(log, { end: false });
  child.stderr?.pipe(log, { end: false });
  const exited = once(child, "exit").then(([code, signal]) => (code as number | null) ?? (signal as NodeJS.Signals));
  void exited.then(() => log.end());
  const { pid } = child;
  if (pid === undefined) throw new Error(`${options.name} could not be started: ${command}`);
  return {
    name: options.name,
    pid,
    logPath: options.logPath,
    exited,
    stop: async (graceMs = 10_000) => {
      child.kill("SIGTERM");
      const grace = new AbortController();
      const timer = systemClock.sleep(graceMs, grace.signal).then(
        () => child.kill("SIGKILL"),
        () => false,
      );
      await exited;
      grace.abort();
      await timer;
    },
    kill: (signal) => {
      child.kill(signal);
    },
    logTail: async (lines = 15) => {
      const text = await readFile(options.logPath, "utf8");
      return text.trimEnd().split("\n").slice(-lines).join("\n");
    },
  };
}

/** Polls until `probe` gives something, the program dies or the time is over; both ends show the log's tail. */
export async function waitForProgram<Value>(
  program: Program,
  what: string,
  options: { readonly timeoutMs: number; probe(): Promise<Value | undefined> },
): Promise<Value> {
  let ended: number | NodeJS.Signals | undefined;
  void program.exited.then((code) => {
    ended = code;
  });
  const deadline = systemClock.monotonicMs() + options.timeoutMs;
  for (;;) {
    const value = await options.probe();
    if (value !== undefined) return value;
    if (ended !== undefined)
      throw new Error(`${program.name} ended with ${ended} before ${what}:\n${await program.logTail()}`);
    if (systemClock.monotonicMs() > deadline)
      throw new Error(`${program.name}: ${what} took longer than ${options.timeoutMs} ms:\n${await program.logTail()}`);
    await systemClock.sleep(50, new AbortController().signal);
  }
}
