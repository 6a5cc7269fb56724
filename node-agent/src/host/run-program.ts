import { spawn, type ChildProcess } from "node:child_process";
import { constants } from "node:os";
import { delimiter } from "node:path";
import { locateProgram } from "./locate-program.ts";

/** One run of a program, as data: it may travel to another process. */
export interface ProgramRun {
  /** A whole path, or a name that is looked for in the environment's PATH. */
  readonly program: string;
  readonly args: readonly string[];
  /** The whole environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Null: it has no input. */
  readonly input: string | null;
  /** Kept of each of stdout and stderr; the rest is read and thrown away. */
  readonly outputBytesMax: number;
}

export interface ProgramEnd {
  /** 128 and the signal's number when a signal ended it. */
  readonly exitCode: number;
  /** Null when it ended by itself. */
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunningProgram {
  /** Rejects when it could not be started; `code` is then the operating system's word, such as `ENOENT`. */
  readonly ended: Promise<ProgramEnd>;
  /** To the program and all that it started. */
  kill(signal: NodeJS.Signals): void;
  /** Waits for it no more: a process that hangs in the kernel would hang us too. */
  abandon(): void;
}

export type RunProgram = (run: ProgramRun) => RunningProgram;

/** Runs it as a child of this process, in a group of its own, so that an end reaches its children too. */
export const runProgram: RunProgram = ({ program, args, env, input, outputBytesMax }) => {
  const stdin = input === null ? "ignore" : "pipe";
  const located = locateProgram(program, (env["PATH"] ?? "").split(delimiter));
  const child = spawn(located, args, { detached: true, stdio: [stdin, "pipe", "pipe"], env });
  const stdout = collect(child.stdout, outputBytesMax);
  const stderr = collect(child.stderr, outputBytesMax);
  // A program that ends without reading its input is judged by its exit code.
  child.stdin?.on("error", () => undefined);
  if (input !== null) child.stdin?.end(input);
  const ended = new Promise<ProgramEnd>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => {
      const exitCode = code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
      resolve({ exitCode, signal, stdout: stdout(), stderr: stderr() });
    });
  });
  ended.catch(() => "Whoever waits for it hears of it.");
  return { ended, kill: (signal) => signalGroup(child, signal), abandon: () => abandon(child) };
};

function abandon(child: ChildProcess): void {
  child.stdout?.destroy();
  child.stderr?.destroy();
  child.unref();
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    // It ended in the meantime.
  }
}

function collect(stream: NodeJS.ReadableStream | null, limit: number): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream?.on("data", (chunk: Buffer) => {
    if (size < limit) chunks.push(chunk.subarray(0, limit - size));
    size += chunk.length;
  });
  return () => Buffer.concat(chunks).toString("utf8");
}
