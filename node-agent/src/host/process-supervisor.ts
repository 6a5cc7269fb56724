import type { Clock } from "@hostler/shared/clock.ts";
import type { FinishedCommand } from "../ports/command-log.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { ProcessSupervisor } from "../ports/process-supervisor.ts";
import { makeDetachedSupervisor } from "./detached-supervisor.ts";
import { isSystemdInCharge } from "./host-scope.ts";
import { makeSystemdSupervisor } from "./systemd-supervisor.ts";

/** systemd where it is PID 1 and takes our orders, so that a slice is a unit with its own cgroup; a detached process elsewhere. */
export async function chooseSupervisor(deps: {
  readonly commands: HostCommands;
  readonly clock: Clock;
  readonly stateDir: string;
  readonly note?: (command: FinishedCommand) => void;
}): Promise<ProcessSupervisor> {
  return (await isSystemdInCharge()) ? makeSystemdSupervisor(deps.commands) : makeDetachedSupervisor(deps);
}
