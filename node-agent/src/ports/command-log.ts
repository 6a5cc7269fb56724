import type { CommandRecord } from "@hostler/shared/command-records.ts";
import type { SliceReference } from "./slice-driver.ts";

/** A program that has ended, or will not: as it was, nothing cut or hidden yet. */
export interface FinishedCommand {
  readonly argv: readonly string[];
  readonly startedAt: Date;
  readonly durationMs: number;
  readonly end: CommandRecord["end"];
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Which attempt at which phase a program belongs to. */
export interface PhaseAttempt {
  readonly phase: string;
  readonly direction: "apply" | "undo";
  readonly attempt: number;
}

/** A record as it stands in the log of a slice. */
export interface LoggedCommand extends CommandRecord, PhaseAttempt {
  readonly taskId: string;
  readonly fence: string;
}

/** The programs that one run of a task starts for a slice. */
export interface CommandTrail {
  /** Runs `act`; each program that it starts is of this attempt. */
  during<Result>(attempt: PhaseAttempt, act: () => Promise<Result>): Promise<Result>;
  /** The last programs of the phase's last attempt, few enough to go with an event; they count against what a task may tell in all. */
  tellLast(phase: string, direction: PhaseAttempt["direction"]): readonly CommandRecord[];
}

/** Every program that phases start, by slice. It is a help for people: nothing waits for it, and no phase fails because of it. */
export interface CommandLog {
  open(slice: SliceReference, run: { readonly taskId: string; readonly fence: string }): CommandTrail;
  /** Oldest first; empty when the host has none of the slice. Lines that were torn are left out. */
  read(slice: SliceReference): Promise<readonly LoggedCommand[]>;
  /** The slices that it has something of. */
  list(): Promise<readonly SliceReference[]>;
  remove(slice: SliceReference): Promise<void>;
  /** Removes what is of no slice that is named. */
  keepOnly(slices: readonly SliceReference[]): Promise<void>;
}
