import { AppError } from "@hostler/shared/errors.ts";
import type { CommandResult, HostCommands } from "../ports/host-commands.ts";
import type { ProcessLimits, ProcessPlacement, ProcessState, ProcessSupervisor } from "../ports/process-supervisor.ts";
import { formatCpuList } from "./compute/cpu-list.ts";
import { requireSuccess } from "./host-commands.ts";

const TIMEOUT_MS = 30_000;
/** systemd itself sends SIGKILL after it; a unit cannot be given another one when it is stopped. */
const STOP_GRACE_SECONDS = 10;
const TASKS_MAX = 32_768;

const unitOf = (name: string): string => `hostler-slice-${name}.service`;

/**
 * Transient units in `hostler.slice`: `systemctl` shows them, each has its own cgroup, and the agent's restart does not touch
 * them. A unit that has ended is forgotten at once (`--collect`), so its program is then `absent` rather than `exited`.
 */
export function makeSystemdSupervisor(commands: HostCommands): ProcessSupervisor {
  const systemctl = async (args: readonly string[], signal = new AbortController().signal): Promise<CommandResult> =>
    await commands.run(["systemctl", ...args], { timeoutMs: TIMEOUT_MS, signal });
  const inspect = async (name: string): Promise<ProcessState> => {
    const show = ["show", unitOf(name), "--property=LoadState,ActiveState,MainPID"];
    return parseUnitState(requireSuccess(["systemctl", ...show], await systemctl(show)).stdout);
  };
  return {
    inspect,
    start: async (name, argv, { signal, ...options }) => {
      if ((await inspect(name)).state === "running")
        throw new AppError("conflict", { detail: `The unit ${unitOf(name)} runs already.` });
      const command = systemdRunArgv(name, argv, options);
      requireSuccess(command, await commands.run(command, { timeoutMs: TIMEOUT_MS, signal }));
    },
    stop: async (name, { signal }) => {
      await systemctl(["stop", unitOf(name)], signal);
      await systemctl(["reset-failed", unitOf(name)], signal);
      if ((await inspect(name)).state === "running")
        throw new AppError("command_timeout", { detail: `The unit ${unitOf(name)} does not stop.` });
    },
    names: async (prefix = "") => parseUnitNames((await systemctl(listArgv(prefix))).stdout),
  };
}

export function systemdRunArgv(
  name: string,
  argv: readonly [string, ...string[]],
  options: { readonly logPath: string; readonly limits?: ProcessLimits; readonly placement?: ProcessPlacement },
): readonly [string, ...string[]] {
  const { logPath, limits, placement } = options;
  const properties = [
    "Type=exec",
    "KillMode=mixed",
    `TimeoutStopSec=${STOP_GRACE_SECONDS}`,
    "Restart=no",
    "LimitMEMLOCK=infinity",
    `StandardOutput=append:${logPath}`,
    `StandardError=append:${logPath}`,
    ...(limits === undefined ? [] : limitsOf(limits)),
    ...(placement === undefined || placement.cpus.length === 0 ? [] : cpusOf(placement.cpus)),
  ];
  return [
    "systemd-run",
    `--unit=${unitOf(name)}`,
    "--slice=hostler.slice",
    "--collect",
    "--quiet",
    ...properties.flatMap((property) => ["-p", property]),
    "--",
    ...argv,
  ];
}

/** Delegated, because a container has a tree of groups of its own below its unit's. */
function limitsOf({ memoryMib, vcpus }: ProcessLimits): readonly string[] {
  const quota = `CPUQuota=${vcpus * 100}%`;
  return ["Delegate=yes", `MemoryMax=${memoryMib}M`, "MemorySwapMax=0", quota, `TasksMax=${TASKS_MAX}`];
}

/** Both: a group's CPUs cannot be left, but hosts with control groups of the first version have none that systemd sets. */
function cpusOf(cpus: readonly number[]): readonly string[] {
  const list = formatCpuList(cpus);
  return [`AllowedCPUs=${list}`, `CPUAffinity=${list}`];
}

export function parseUnitState(text: string): ProcessState {
  const values = Object.fromEntries(text.split("\n").map((line) => line.split("=", 2)));
  if (values["LoadState"] === "not-found") return { state: "absent" };
  const isRunning = ["active", "activating", "deactivating", "reloading"].includes(values["ActiveState"] ?? "");
  return isRunning ? { state: "running", pid: Number(values["MainPID"]) } : { state: "exited" };
}

export function parseUnitNames(text: string): readonly string[] {
  return text.split("\n").flatMap((line) => /^\s*hostler-slice-(\S+)\.service\b/.exec(line)?.[1] ?? []);
}

function listArgv(prefix: string): readonly string[] {
  return ["list-units", "--all", "--plain", "--no-legend", `hostler-slice-${prefix}*.service`];
}
