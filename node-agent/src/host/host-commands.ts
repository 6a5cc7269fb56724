import { spawn, type ChildProcess } from "node:child_process";
import { constants } from "node:os";
import { delimiter } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { CommandOptions, CommandResult, HostCommands } from "../ports/host-commands.ts";
import { findProgram, searchFolders, type FindProgram } from "./find-program.ts";

/** Which Debian package brings a program, for the message when it is missing. */
export const PROGRAM_PACKAGES: Readonly<Record<string, string>> = {
  "qemu-system-x86_64": "qemu-system-x86",
  "qemu-img": "qemu-utils",
  genisoimage: "genisoimage",
  ip: "iproute2",
  nft: "nftables",
  ssh: "openssh-client",
  "ssh-keygen": "openssh-client",
  socat: "socat",
  "systemd-nspawn": "systemd-container",
  busybox: "busybox-static",
  mke2fs: "e2fsprogs",
};

const OUTPUT_BYTES_MAX = 256 * 1024;
const KILL_GRACE_MS = 2000;

/** Programs of this host, each in a process group of its own, so that a deadline ends its children too. */
export function makeHostCommands(deps: { readonly clock: Clock; readonly find?: FindProgram }): HostCommands {
  const find = deps.find ?? findProgram;
  return {
    run: async (argv, options) => {
      options.signal.throwIfAborted();
      const [name, ...args] = argv;
      const program = await find(name);
      if (program === null) throw missingProgram(name);
      const startedMs = deps.clock.monotonicMs();
      const stdin = options.input === undefined ? "ignore" : "pipe";
      const child = spawn(program, args, { detached: true, stdio: [stdin, "pipe", "pipe"], env: programEnvironment() });
      const limit = options.outputBytesMax ?? OUTPUT_BYTES_MAX;
      const stdout = collect(child.stdout, limit);
      const stderr = collect(child.stderr, limit);
      // A program that ends without reading its input is judged by its exit code.
      child.stdin?.on("error", () => undefined);
      child.stdin?.end(options.input);
      const exitCode = await endOf(deps.clock, child, { name, options });
      const durationMs = Math.round(deps.clock.monotonicMs() - startedMs);
      return { exitCode, stdout: stdout(), stderr: stderr(), durationMs };
    },
  };
}

/** The whole environment of a host program: nothing of the agent's own leaks into it, and messages are in one language. */
export function programEnvironment(): Readonly<Record<string, string>> {
  return { PATH: searchFolders().join(delimiter), LC_ALL: "C" };
}

/** Throws `command_failed` with the program's own words unless it ended with 0. */
export function requireSuccess(argv: readonly string[], result: CommandResult): CommandResult {
  if (result.exitCode === 0) return result;
  const words = (result.stderr.trim() || result.stdout.trim() || "no message").slice(-1500);
  if (/No space left on device/.test(words)) throw new AppError("disk_full", { detail: `${argv[0]}: ${words}` });
  throw new AppError("command_failed", {
    detail: `${argv.slice(0, 3).join(" ")} ended with ${result.exitCode}: ${words}`,
  });
}

export function missingProgram(program: string, cause?: unknown): AppError {
  const debianPackage = PROGRAM_PACKAGES[program];
  const remedy = debianPackage === undefined ? "Install it" : `Install it with: apt-get install ${debianPackage}`;
  return new AppError("driver_unavailable", { detail: `The program ${program} is not installed. ${remedy}`, cause });
}

async function endOf(
  clock: Clock,
  child: ChildProcess,
  run: { readonly name: string; readonly options: CommandOptions },
): Promise<number> {
  const { name, options } = run;
  const over = new AbortController();
  const ended = new Promise<number>((resolve, reject) => {
    child.once("error", (error: NodeJS.ErrnoException) =>
      reject(error.code === "ENOENT" ? missingProgram(name, error) : error),
    );
    child.once("close", (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])));
  });
  ended.catch(() => "Thrown below, unless the program was stopped first.");
  const timeoutError = (): AppError =>
    new AppError("command_timeout", {
      detail: `${name} did not end within ${options.timeoutMs / 1000} s and was killed.`,
    });
  const stopReason = clock
    .sleep(options.timeoutMs, AbortSignal.any([options.signal, over.signal]))
    .then(timeoutError, () => options.signal.reason as unknown);
  try {
    const first = await Promise.race([
      ended.then((exitCode) => ({ exitCode })),
      stopReason.then((reason) => ({ reason })),
    ]);
    if ("exitCode" in first) return first.exitCode;
    await killGroup(clock, child, ended);
    throw first.reason;
  } finally {
    over.abort();
  }
}

/** Asks, then kills. A process that survives SIGKILL (a hung write to sysfs does) is left behind: waiting would hang us too. */
async function killGroup(clock: Clock, child: ChildProcess, ended: Promise<number>): Promise<void> {
  const gone = ended.then(
    () => true,
    () => true,
  );
  const grace = async (): Promise<boolean> =>
    await clock.sleep(KILL_GRACE_MS, new AbortController().signal).then(() => false);
  signalGroup(child, "SIGTERM");
  if (await Promise.race([gone, grace()])) return;
  signalGroup(child, "SIGKILL");
  if (await Promise.race([gone, grace()])) return;
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
