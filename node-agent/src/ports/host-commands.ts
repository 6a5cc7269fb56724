/**
 * Programs of the host. There is no shell: a program gets an argument list, so nothing that a tenant sends can become
 * a command. Each run has a deadline and a limit on what is kept of its output.
 */
export interface HostCommands {
  /**
   * Runs a program to its end. A non-zero exit is an answer, not a failure. Rejects with `driver_unavailable` when the
   * program is not installed, with `command_timeout` when it was killed at its deadline (a process that does not die is
   * left behind and never waited for), with the signal's reason when aborted.
   */
  run(argv: readonly [string, ...string[]], options: CommandOptions): Promise<CommandResult>;
}

export interface CommandOptions {
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly input?: string;
  /** Kept of each of stdout and stderr; the default is 256 KiB, the rest is read and thrown away. */
  readonly outputBytesMax?: number;
}

export interface CommandResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
  readonly durationMs: number;
}
