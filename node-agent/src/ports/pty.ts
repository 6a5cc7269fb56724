import type { TerminalCommand } from "./slice-driver.ts";

/** Pseudo-terminals. Later they live in a process of their own (`pty-host`), so that the agent restarts under running shells. */
export interface PtyHost {
  open(command: TerminalCommand, size: { readonly cols: number; readonly rows: number }): PtySession;
}

/** After the program's end everything may still be called, and does nothing. */
export interface PtySession {
  /** One listener; called with raw bytes in order. Not called while paused. */
  onOutput(listener: (bytes: Uint8Array) => void): void;
  /** Resolves once, after the last output was delivered. */
  readonly exited: Promise<{ readonly exitCode: number; readonly signal: number }>;
  write(bytes: Uint8Array): void;
  resize(cols: number, rows: number): void;
  /** Stops and restarts reading the program's output: the kernel then blocks the program. */
  pause(): void;
  resume(): void;
  /** Ends the program's process group. */
  kill(): void;
}
