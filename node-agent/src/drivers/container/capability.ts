import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { findProgram, type FindProgram } from "../../host/find-program.ts";
import { PROGRAM_PACKAGES } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { DriverCapability } from "../../ports/slice-driver.ts";
import { nspawnRuntime } from "./nspawn.ts";
import { podmanRuntime } from "./podman.ts";
import type { ContainerRuntime } from "./runtime.ts";

export interface RuntimeVerdict {
  /** Null where none works. */
  readonly chosen: { readonly runtime: ContainerRuntime; readonly busybox: string } | null;
  /** One sentence for the operator. */
  readonly note: string;
}

export interface CapabilityDeps {
  readonly host: HostCommands;
  readonly runDir: string;
  /** Whether the supervisor gives each slice a cgroup with limits. */
  readonly hasLimits: boolean;
  readonly find?: FindProgram;
}

const NEEDED = [
  "ip",
  "nft",
  "tar",
  "mke2fs",
  "resize2fs",
  "cp",
  "mount",
  "umount",
  "nsenter",
  "prlimit",
  "setpriv",
  "busybox",
] as const;
/** The first that works is taken. */
const RUNTIMES: readonly ContainerRuntime[] = [nspawnRuntime, podmanRuntime];
const PROBE_TIMEOUT_MS = 30_000;

/** Runs a container with each runtime that is installed until one works: being installed proves nothing. */
export async function decideRuntime(deps: CapabilityDeps, signal: AbortSignal): Promise<RuntimeVerdict> {
  const find = deps.find ?? findProgram;
  if (process.getuid?.() !== 0) return { chosen: null, note: "Containers need the agent to run as root." };
  const missing = await missingOf(find, NEEDED);
  const busybox = await find("busybox");
  if (missing.length > 0 || busybox === null) return { chosen: null, note: missingNote(missing) };
  const refusals: string[] = [];
  for (const runtime of RUNTIMES) {
    if ((await find(runtime.name)) === null) {
      refusals.push(`${runtime.name} is not installed`);
      continue;
    }
    const refusal = await tryRuntime(deps, { runtime, busybox }, signal);
    if (refusal === null) return { chosen: { runtime, busybox }, note: noteOf(deps, runtime, refusals) };
    refusals.push(`${runtime.name} does not work (${refusal})`);
  }
  const remedy = `apt-get install ${PROGRAM_PACKAGES["systemd-nspawn"]}`;
  return {
    chosen: null,
    note: `No container runtime works here: ${refusals.join("; ")}. Try: ${remedy}`.slice(0, 500),
  };
}

export function capabilityOf({ chosen, note }: RuntimeVerdict): DriverCapability {
  return { usable: chosen !== null, accelerator: "none", note };
}

export function requireRuntime({ chosen, note }: RuntimeVerdict): NonNullable<RuntimeVerdict["chosen"]> {
  if (chosen === null) throw new AppError("driver_unavailable", { detail: note });
  return chosen;
}

/** Null when a container ran to its end; otherwise what the runtime said. */
async function tryRuntime(
  deps: CapabilityDeps,
  { runtime, busybox }: { readonly runtime: ContainerRuntime; readonly busybox: string },
  signal: AbortSignal,
): Promise<string | null> {
  await mkdir(deps.runDir, { recursive: true, mode: 0o700 });
  const root = await mkdtemp(join(deps.runDir, "probe-"));
  try {
    for (const folder of ["usr", "etc", "dev", "proc", "sys", "run", "tmp"]) await mkdir(join(root, folder));
    const argv = runtime.probeArgv({ root, busybox });
    const result = await deps.host.run(argv, { timeoutMs: PROBE_TIMEOUT_MS, signal });
    return result.exitCode === 0 ? null : (result.stderr.trim().split("\n").at(-1) ?? "").slice(-160) || "no message";
  } catch (error) {
    if (error instanceof AppError) return (error.detail ?? error.code).slice(0, 160);
    throw error;
  } finally {
    await rm(root, { recursive: true, force: true });
  }
}

function noteOf(deps: CapabilityDeps, runtime: ContainerRuntime, refusals: readonly string[]): string {
  const limits = deps.hasLimits
    ? "memory and processors limited by its unit"
    : "memory and processors not limited, because systemd does not run this host";
  const others = refusals.length === 0 ? "" : ` Not chosen: ${refusals.join("; ")}.`;
  return `${runtime.name}, ${limits}.${others}`.slice(0, 500);
}

async function missingOf(find: FindProgram, programs: readonly string[]): Promise<string[]> {
  const found = await Promise.all(programs.map(find));
  return programs.filter((_, index) => found[index] === null);
}

function missingNote(missing: readonly string[]): string {
  const packages = [...new Set(missing.map((program) => PROGRAM_PACKAGES[program] ?? program))].join(" ");
  return `Missing: ${missing.join(", ")}. Install with: apt-get install ${packages}`;
}
