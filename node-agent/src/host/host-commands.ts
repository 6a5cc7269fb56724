import { delimiter } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, describeError } from "@hostler/shared/errors.ts";
import type { FinishedCommand } from "../ports/command-log.ts";
import type * as z from "zod";
import type { CommandOptions, CommandResult, HostCommands } from "../ports/host-commands.ts";
import { searchFolders, type FindProgram } from "./find-program.ts";
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
  filefrag: "e2fsprogs",
  prlimit: "util-linux",
  setpriv: "util-linux",
  unshare: "util-linux",
  swtpm: "swtpm",
  resize2fs: "e2fsprogs",
  tar: "tar",
  cp: "coreutils",
  mount: "mount",
  umount: "mount",
  useradd: "passwd",
  usermod: "passwd",
  userdel: "passwd",
  groupadd: "passwd",
  groupdel: "passwd",
  runuser: "util-linux",
  kill: "procps",
  lvs: "lvm2",
  lvcreate: "lvm2",
  lvchange: "lvm2",
  lvremove: "lvm2",
  find: "findutils",
  ipcrm: "util-linux",
  sudo: "sudo",
};

const OUTPUT_BYTES_MAX = 256 * 1024;
const KILL_GRACE_MS = 2000;

/**
 * Programs of this host, each with a deadline that ends its children too. `run`: how they are started; as our own children unless
 * given. `find`: where they are; the first of PATH unless given. `note` is told of each, however it ended.
 */
export function makeHostCommands(deps: {
  readonly clock: Clock;
  readonly find?: FindProgram;
  readonly run?: RunProgram;
  readonly note?: (command: FinishedCommand) => void;
}): HostCommands {
  const { clock, find, run = runProgram, note = () => undefined } = deps;
  return {
    run: async (argv, options) => {
      options.signal.throwIfAborted();
      const [name, ...args] = argv;
      const startedAt = clock.now();
      const startedMs = clock.monotonicMs();
      const noteEnd = (how: Pick<FinishedCommand, "end" | "exitCode" | "signal">, output: Output): number => {
        const durationMs = Math.round(clock.monotonicMs() - startedMs);
        const { stdout, stderr } = output;
        note({ argv, startedAt, durationMs, ...how, stdout, stderr });
        return durationMs;
      };
      const program = find === undefined ? name : await find(name);
      if (program === null) {
        const error = missingProgram(name);
        noteEnd({ end: "not_started", ...NO_EXIT }, { stdout: "", stderr: error.message });
        throw error;
      }
      const { input = null, outputBytesMax = OUTPUT_BYTES_MAX } = options;
      const running = run({ program, args, env: programEnvironment(), input, outputBytesMax });
      const end = await endOf(clock, running, { name, options });
      if ("error" in end) {
        const stderr = end.end === "not_started" ? describeError(end.error) : "";
        noteEnd({ end: end.end, ...NO_EXIT }, end.output ?? { stdout: "", stderr });
        throw end.error;
      }
      const { exitCode, signal, stdout, stderr } = end;
      const how = signal === null ? ({ end: "exited", exitCode, signal } as const) : signalled(signal);
      return { exitCode, stdout, stderr, durationMs: noteEnd(how, end) };
    },
  };
}

type Output = Pick<ProgramEnd, "stdout" | "stderr">;
const NO_EXIT = { exitCode: null, signal: null } as const;
const signalled = (signal: NodeJS.Signals) => ({ end: "signalled", exitCode: null, signal }) as const;

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

/** A program that ended with 0 and did not do its work, or said something else than it should: broken, or not what it seems. */
export function brokenProgram(argv: readonly string[], what: string, cause?: unknown): AppError {
  const [program = ""] = argv;
  const debianPackage = PROGRAM_PACKAGES[program];
  const remedy = debianPackage === undefined ? "it anew" : `it anew: apt-get install --reinstall ${debianPackage}`;
  const detail = `${argv.slice(0, 3).join(" ")} ended well, but ${what}. Try it by hand, and install ${remedy}`;
  return new AppError("command_failed", { detail, cause });
}

/** The JSON that a program printed, as it should be; throws `command_failed` with the program's name for anything else. */
export function parseAnswer<Answer>(argv: readonly string[], text: string, schema: z.ZodType<Answer>): Answer {
  try {
    return schema.parse(JSON.parse(text));
  } catch (error) {
    throw brokenProgram(argv, "what it printed is not what was asked for", error);
  }
}

export function missingProgram(program: string, cause?: unknown): AppError {
  const debianPackage = PROGRAM_PACKAGES[program];
  const remedy = debianPackage === undefined ? "Install it" : `Install it with: apt-get install ${debianPackage}`;
  return new AppError("driver_unavailable", { detail: `The program ${program} is not installed. ${remedy}`, cause });
}

/** A program that did not end by itself, or never began: what its caller hears, and what it had said by then. */
interface CutShort {
  readonly end: "timed_out" | "called_off" | "not_started";
  readonly error: unknown;
  readonly output: ProgramEnd | null;
}

async function endOf(
  clock: Clock,
  running: RunningProgram,
  { name, options }: { readonly name: string; readonly options: CommandOptions },
): Promise<ProgramEnd | CutShort> {
  const over = new AbortController();
  const ended = running.ended.catch((error: unknown): CutShort => {
    if (!isMissing(error)) return { end: "not_started", error, output: null };
    return { end: "not_started", error: missingProgram(name, error), output: null };
  });
  const timeoutError = (): AppError =>
    new AppError("command_timeout", {
      detail: `${name} did not end within ${options.timeoutMs / 1000} s and was killed.`,
    });
  const stopped = clock.sleep(options.timeoutMs, AbortSignal.any([options.signal, over.signal])).then(
    () => ({ end: "timed_out", error: timeoutError() }) as const,
    () => ({ end: "called_off", error: options.signal.reason as unknown }) as const,
  );
  try {
    const first = await Promise.race([ended, stopped.then((stop) => ({ stop }))]);
    if (!("stop" in first)) return first;
    return { ...first.stop, output: await killGroup(clock, running) };
  } finally {
    over.abort();
  }
}

/**
 * Asks, then kills; resolves with what it had said. A process that survives SIGKILL (a hung write to sysfs does) is left behind:
 * waiting would hang us too.
 */
async function killGroup(clock: Clock, running: RunningProgram): Promise<ProgramEnd | null> {
  const gone = running.ended.then(
    (end) => ({ end }),
    () => ({ end: null }),
  );
  const grace = async (): Promise<null> =>
    await clock.sleep(KILL_GRACE_MS, new AbortController().signal).then(() => null);
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    running.kill(signal);
    const found = await Promise.race([gone, grace()]);
    if (found !== null) return found.end;
  }
  running.abandon();
  return null;
}

/** What the operating system says of a program that is gone, or whose interpreter is. */
export function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ENOENT";
}
