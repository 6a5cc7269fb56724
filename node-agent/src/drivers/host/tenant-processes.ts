import { readdir, readFile } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { HostCommands } from "../../ports/host-commands.ts";

export interface EndDeps {
  readonly commands: HostCommands;
  readonly clock: Clock;
}

/** What SIGKILL does not end within this hangs in the kernel. */
const KILL_PATIENCE_MS = 20_000;
const LOOK_MS = 50;
const COMMAND_TIMEOUT_MS = 10_000;

/** Processes that are, were or may become this user: any of the four ids counts. Those that have ended and wait to be counted do not. */
export async function processesOf(uid: number): Promise<readonly number[]> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(pids.map(async (pid) => ((await isProcessOf(pid, uid)) ? Number(pid) : null)));
  return found.filter((pid) => pid !== null);
}

async function isProcessOf(pid: string, uid: number): Promise<boolean> {
  const status = await readFile(`/proc/${pid}/status`, "latin1").catch(() => "");
  if (/^State:\t[ZX]/m.test(status)) return false;
  const [, ids = ""] = /^Uid:\t(.*)$/m.exec(status) ?? [];
  return ids.split("\t").map(Number).includes(uid);
}

/**
 * Ends every process of the user, however it fights. One by one is too slow for what forks on, so each round also sends the signal
 * to all at once, which the kernel does in one step, as that user: whoever forks meanwhile has the signal pending. Rejects with
 * `command_timeout` when some survive.
 */
export async function endProcesses(deps: EndDeps, uid: number, signal: AbortSignal): Promise<void> {
  const untilMs = deps.clock.monotonicMs() + KILL_PATIENCE_MS;
  for (let left = await processesOf(uid); left.length > 0; left = await processesOf(uid)) {
    signal.throwIfAborted();
    if (deps.clock.monotonicMs() > untilMs)
      throw new AppError("command_timeout", {
        detail: `Processes of the tenant survive SIGKILL: ${left.slice(0, 10).join(", ")}. See cat /proc/PID/stack; only a restart of the host ends them.`,
      });
    for (const pid of left) sendSignal(pid, "SIGKILL");
    await killAllAs(deps.commands, uid, signal);
    if ((await processesOf(uid)).length > 0) await deps.clock.sleep(LOOK_MS, signal);
  }
}

/** Asks every process of the user to end; true when all did within the time. */
export async function askProcesses(
  deps: EndDeps,
  uid: number,
  { timeoutMs, signal }: { readonly timeoutMs: number; readonly signal: AbortSignal },
): Promise<boolean> {
  const untilMs = deps.clock.monotonicMs() + timeoutMs;
  // A shell that reads from a terminal ignores SIGTERM, and ends with its terminal.
  for (const pid of await processesOf(uid)) for (const name of ["SIGTERM", "SIGHUP"] as const) sendSignal(pid, name);
  while ((await processesOf(uid)).length > 0) {
    if (deps.clock.monotonicMs() > untilMs) return false;
    await deps.clock.sleep(LOOK_MS, signal);
  }
  return true;
}

function sendSignal(pid: number, name: "SIGKILL" | "SIGTERM" | "SIGHUP"): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    // It ended by itself.
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}

/** Whether it did is seen by looking: a process of the tenant may have killed the killer. */
async function killAllAs(commands: HostCommands, uid: number, signal: AbortSignal): Promise<void> {
  const asTenant = [`--reuid=${uid}`, `--regid=${uid}`, "--clear-groups", "--no-new-privs", "--"];
  await commands.run(["setpriv", ...asTenant, "kill", "-KILL", "--", "-1"], { timeoutMs: COMMAND_TIMEOUT_MS, signal });
}
