import { spawn } from "node:child_process";
import { access, mkdir, open, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { HostCommands } from "../ports/host-commands.ts";
import { missingProgram, requireSuccess } from "./host-commands.ts";
import { startTimeOf } from "./process-start-time.ts";

/** Long-lived programs that must survive the agent: each has a name, and the name finds it again. */
export interface ProcessSupervisor {
  /** Starts the program under the name. Rejects with `conflict` when one runs under it. */
  start(
    name: string,
    argv: readonly [string, ...string[]],
    options: { readonly logPath: string; readonly signal: AbortSignal },
  ): Promise<void>;
  inspect(name: string): Promise<ProcessState>;
  /** SIGTERM, then SIGKILL after the grace; resolves when it is gone, nothing there is success. Forgets the name. */
  stop(name: string, options: { readonly graceMs: number; readonly signal: AbortSignal }): Promise<void>;
  names(): Promise<readonly string[]>;
}

export type ProcessState =
  | { readonly state: "running"; readonly pid: number }
  | { readonly state: "exited" }
  | { readonly state: "absent" };

/** systemd where it is PID 1, so that a slice is a unit with its own cgroup; a detached process elsewhere. */
export async function chooseSupervisor(deps: {
  readonly commands: HostCommands;
  readonly clock: Clock;
  readonly stateDir: string;
}): Promise<ProcessSupervisor> {
  const hasSystemd = await access("/run/systemd/system").then(
    () => true,
    () => false,
  );
  return hasSystemd ? makeSystemdSupervisor(deps.commands) : makeDetachedSupervisor(deps);
}

const recordSchema = z.object({ pid: z.int(), startTime: z.string() });

/**
 * Detached processes, each known by a file with its pid and start time: together they name one process for the life of a
 * boot, so a pid that was given to somebody else is never killed.
 */
export function makeDetachedSupervisor(deps: { readonly clock: Clock; readonly stateDir: string }): ProcessSupervisor {
  const folder = join(deps.stateDir, "processes");
  const path = (name: string): string => join(folder, `${name}.json`);
  const inspect = async (name: string): Promise<ProcessState> => {
    const text = await readFile(path(name), "utf8").catch(() => null);
    if (text === null) return { state: "absent" };
    const record = recordSchema.parse(JSON.parse(text));
    return (await startTimeOf(record.pid)) === record.startTime
      ? { state: "running", pid: record.pid }
      : { state: "exited" };
  };
  return {
    inspect,
    names: async () =>
      (await readdir(folder).catch(() => [])).filter((name) => name.endsWith(".json")).map((name) => name.slice(0, -5)),
    start: async (name, argv, { logPath, signal }) => {
      signal.throwIfAborted();
      if ((await inspect(name)).state === "running")
        throw new AppError("conflict", { detail: `A process runs under the name ${name} already.` });
      await mkdir(folder, { recursive: true, mode: 0o700 });
      const pid = await spawnDetached(argv, logPath);
      // A process that ended already has no start time; the record then says "exited", which is true.
      const record = { pid, startTime: (await startTimeOf(pid)) ?? "ended" };
      await writeFile(`${path(name)}.new`, JSON.stringify(record), { mode: 0o600 });
      await rename(`${path(name)}.new`, path(name));
    },
    stop: async (name, { graceMs, signal }) => {
      const found = await inspect(name);
      if (found.state === "running")
        await endProcess(deps.clock, found.pid, {
          graceMs,
          signal,
          isGone: async () => (await inspect(name)).state !== "running",
        });
      await rm(path(name), { force: true });
    },
  };
}

/** Transient units in `tenants.slice`; `systemctl` shows them, and the agent's own restart does not touch them. */
export function makeSystemdSupervisor(commands: HostCommands): ProcessSupervisor {
  const unit = (name: string): string => `hostler-${name}.service`;
  const systemctl = async (args: readonly string[], signal: AbortSignal): Promise<string> =>
    (await commands.run(["systemctl", ...args], { timeoutMs: 30_000, signal })).stdout;
  const always = new AbortController().signal;
  return {
    start: async (name, argv, { logPath, signal }) => {
      const properties = [
        "KillMode=mixed",
        "Restart=no",
        "LimitMEMLOCK=infinity",
        `StandardOutput=append:${logPath}`,
        `StandardError=append:${logPath}`,
      ];
      const command = [
        "systemd-run",
        `--unit=${unit(name)}`,
        "--slice=tenants.slice",
        ...properties.map((property) => `--property=${property}`),
        "--",
        ...argv,
      ] as const;
      requireSuccess(command, await commands.run(["systemd-run", ...command.slice(1)], { timeoutMs: 30_000, signal }));
    },
    inspect: async (name) => {
      const text = await systemctl(["show", unit(name), "--property=LoadState,ActiveState,MainPID"], always);
      const values = Object.fromEntries(text.split("\n").map((line) => line.split("=", 2)));
      if (values["LoadState"] === "not-found") return { state: "absent" };
      return values["ActiveState"] === "active"
        ? { state: "running", pid: Number(values["MainPID"]) }
        : { state: "exited" };
    },
    stop: async (name, { signal }) => {
      await systemctl(["stop", unit(name)], signal);
      await systemctl(["reset-failed", unit(name)], signal);
    },
    names: async () => {
      const text = await systemctl(["list-units", "--all", "--plain", "--no-legend", "hostler-*.service"], always);
      return text.split("\n").flatMap((line) => /^hostler-(\S+)\.service/.exec(line)?.[1] ?? []);
    },
  };
}

async function spawnDetached(argv: readonly [string, ...string[]], logPath: string): Promise<number> {
  const [program, ...args] = argv;
  const log = await open(logPath, "a", 0o600);
  try {
    const child = spawn(program, args, { detached: true, stdio: ["ignore", log.fd, log.fd], cwd: "/" });
    const pid = await new Promise<number>((resolve, reject) => {
      child.once("error", (error: NodeJS.ErrnoException) =>
        reject(error.code === "ENOENT" ? missingProgram(program, error) : error),
      );
      child.once("spawn", () => resolve(child.pid ?? 0));
    });
    child.unref();
    return pid;
  } finally {
    await log.close();
  }
}

async function endProcess(
  clock: Clock,
  pid: number,
  end: { readonly graceMs: number; readonly signal: AbortSignal; isGone(): Promise<boolean> },
): Promise<void> {
  const killAtMs = clock.monotonicMs() + end.graceMs;
  let isKilled = false;
  kill(pid, "SIGTERM");
  while (!(await end.isGone())) {
    if (!isKilled && clock.monotonicMs() >= killAtMs) {
      kill(pid, "SIGKILL");
      isKilled = true;
    }
    await clock.sleep(20, end.signal);
  }
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It ended in the meantime.
  }
}
