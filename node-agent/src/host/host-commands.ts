import { delimiter } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { CommandOptions, CommandResult, HostCommands } from "../ports/host-commands.ts";
import { findProgram, searchFolders, type FindProgram } from "./find-program.ts";
import { runProgram, type ProgramEnd, type RunningProgram, type RunProgram } from "./run-program.ts";

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
  taskset: "util-linux",
  prlimit: "util-linux",
  swtpm: "swtpm",
};

const OUTPUT_BYTES_MAX = 256 * 1024;
const KILL_GRACE_MS = 2000;

/** Programs of this host, each with a deadline that ends its children too. `run`: how they are started; as our own children unless given. */
export function makeHostCommands(deps: {
  readonly clock: Clock;
  readonly find?: FindProgram;
  readonly run?: RunProgram;
}): HostCommands {
  const find = deps.find ?? findProgram;
  const run = deps.run ?? runProgram;
  return {
    run: async (argv, options) => {
      options.signal.throwIfAborted();
      const [name, ...args] = argv;
      const program = await find(name);
      if (program === null) throw missingProgram(name);
      const startedMs = deps.clock.monotonicMs();
      const { input = null, outputBytesMax = OUTPUT_BYTES_MAX } = options;
      const running = run({ program, args, env: programEnvironment(), input, outputBytesMax });
      const end = await endOf(deps.clock, running, { name, options });
      return { ...end, durationMs: Math.round(deps.clock.monotonicMs() - startedMs) };
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
  running: RunningProgram,
  { name, options }: { readonly name: string; readonly options: CommandOptions },
): Promise<ProgramEnd> {
  const over = new AbortController();
  const ended = running.ended.catch((error: unknown) => {
    throw isMissing(error) ? missingProgram(name, error) : error;
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
    const first = await Promise.race([ended.then((end) => ({ end })), stopReason.then((reason) => ({ reason }))]);
    if ("end" in first) return first.end;
    await killGroup(clock, running);
    throw first.reason;
  } finally {
    over.abort();
  }
}

/** Asks, then kills. A process that survives SIGKILL (a hung write to sysfs does) is left behind: waiting would hang us too. */
async function killGroup(clock: Clock, running: RunningProgram): Promise<void> {
  const gone = running.ended.then(
    () => true,
    () => true,
  );
  const grace = async (): Promise<boolean> =>
    await clock.sleep(KILL_GRACE_MS, new AbortController().signal).then(() => false);
  running.kill("SIGTERM");
  if (await Promise.race([gone, grace()])) return;
  running.kill("SIGKILL");
  if (await Promise.race([gone, grace()])) return;
  running.abandon();
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
