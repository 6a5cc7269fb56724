import { spawn, type ChildProcess } from "node:child_process";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { CommandOptions, CommandResult, HostCommands } from "../ports/host-commands.ts";

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
};

const OUTPUT_BYTES_MAX = 256 * 1024;
const KILL_GRACE_MS = 2000;

/** Programs of this host, each in a process group of its own, so that a deadline ends its children too. */
export function makeHostCommands(deps: { readonly clock: Clock }): HostCommands {
  return {
    run: async (argv, options) => {
      options.signal.throwIfAborted();
      const startedMs = deps.clock.monotonicMs();
      const [program, ...args] = argv;
      const child = spawn(program, args, {
        detached: true,
        stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
        env: { ...process.env, LC_ALL: "C" },
      });
      const limit = options.outputBytesMax ?? OUTPUT_BYTES_MAX;
      const stdout = collect(child.stdout, limit);
      const stderr = collect(child.stderr, limit);
      if (options.input !== undefined) {
        child.stdin?.on("error", () => undefined);
        child.stdin?.end(options.input);
      }
      const exitCode = await endOf(deps.clock, child, { program, options });
      return {
        exitCode,
        stdout: stdout(),
        stderr: stderr(),
        durationMs: Math.round(deps.clock.monotonicMs() - startedMs),
      };
    },
  };
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

async function endOf(
  clock: Clock,
  child: ChildProcess,
  run: { readonly program: string; readonly options: CommandOptions },
): Promise<number> {
  const { program, options } = run;
  const over = new AbortController();
  const ended = new Promise<number>((resolve, reject) => {
    child.once("error", (error: NodeJS.ErrnoException) =>
      reject(error.code === "ENOENT" ? missingProgram(program, error) : error),
    );
    // 128 plus the signal's number is what a shell would say.
    child.once("close", (code, signal) => resolve(code ?? (signal === null ? 255 : 137)));
  });
  const timeUp = clock.sleep(options.timeoutMs, AbortSignal.any([options.signal, over.signal])).then(
    () =>
      new AppError("command_timeout", {
        detail: `${program} did not end within ${options.timeoutMs / 1000} s and was killed.`,
      }),
    () => options.signal.reason as unknown,
  );
  const stopped = timeUp.then(async (reason) => {
    if (over.signal.aborted) return 0;
    await killGroup(clock, child, ended);
    throw reason;
  });
  try {
    return await Promise.race([ended, stopped]);
  } finally {
    over.abort();
    stopped.catch(() => undefined);
  }
}

/** Asks, then kills. A process that survives SIGKILL (a hung write to sysfs does) is left behind: waiting would hang us too. */
async function killGroup(clock: Clock, child: ChildProcess, ended: Promise<number>): Promise<void> {
  signalGroup(child, "SIGTERM");
  const gone = ended.then(
    () => true,
    () => true,
  );
  const grace = async (): Promise<boolean> =>
    await clock.sleep(KILL_GRACE_MS, new AbortController().signal).then(() => false);
  if (await Promise.race([gone, grace()])) return;
  signalGroup(child, "SIGKILL");
  await Promise.race([gone, grace()]);
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

export function missingProgram(program: string, cause?: unknown): AppError {
  const debianPackage = PROGRAM_PACKAGES[program];
  const remedy = debianPackage === undefined ? "Install it" : `Install it with: apt-get install ${debianPackage}`;
  return new AppError("driver_unavailable", { detail: `The program ${program} is not installed. ${remedy}`, cause });
}
