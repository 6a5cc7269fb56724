/** Long-lived programs that must survive the agent: each has a name, and the name finds it again after any restart. */
export interface ProcessSupervisor {
  /** Resolves when the program was executed. Rejects with `conflict` when one runs under the name, with `driver_unavailable` when it is not installed. */
  start(
    name: string,
    argv: readonly [string, ...string[]],
    options: {
      readonly logPath: string;
      readonly limits?: ProcessLimits;
      readonly placement?: ProcessPlacement;
      readonly signal: AbortSignal;
    },
  ): Promise<void>;
  inspect(name: string): Promise<ProcessState>;
  /**
   * SIGTERM, then SIGKILL after the grace; resolves when it is gone, nothing there is success. Forgets the name. Rejects with
   * `command_timeout` when it survives SIGKILL.
   */
  stop(name: string, options: { readonly graceMs: number; readonly signal: AbortSignal }): Promise<void>;
  /** The names that begin with `prefix`, of programs that run or have ended and were not stopped. */
  names(prefix?: string): Promise<readonly string[]>;
}

/** What a program and all that it starts may use together; kept only where systemd is the supervisor. */
export interface ProcessLimits {
  readonly memoryMib: number;
  readonly vcpus: number;
}

/** Kept by every supervisor. */
export interface ProcessPlacement {
  /** Where its threads may run; empty is anywhere. */
  readonly cpus: readonly number[];
  /** Whether it may keep all of its memory from being moved, as devices need that are passed through. */
  readonly mayLockMemory: boolean;
}

export type ProcessState =
  | { readonly state: "running"; readonly pid: number }
  | { readonly state: "exited" }
  | { readonly state: "absent" };
