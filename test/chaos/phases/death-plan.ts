/** Where a process dies, by its own journal. Written for it by the suite, read by `die-at.ts` inside of it. */
export interface DeathPlan {
  /** Null: it lives, and only writes down what each phase did. */
  readonly death: Death | null;
  /** The record that its journal cannot take, so that the slice is undone: the begin of a phase, or the seal. Null: none. */
  readonly refuse: "start" | "sealed" | null;
}

export interface Death {
  readonly task: "provision" | "release";
  readonly phase: string;
  readonly direction: "apply" | "undo";
  readonly instant: Instant;
}

export type Instant =
  /** `begin` is on its way to the disk, or is there. */
  | { readonly kind: "begin unsynced" | "begun" }
  /** The Nth thing that is done to the host in the phase, from 1: about to be done, or just done. */
  | { readonly kind: "before act" | "after act"; readonly act: number }
  /** So long after `begin`, ms; at the latest before `end`. */
  | { readonly kind: "moment"; readonly afterMs: number }
  /** All is done, and `end` is not written, is on its way to the disk, or is there. */
  | { readonly kind: "end unwritten" | "end unsynced" | "ended" };

/** What a life told of a phase, one line of JSON each. */
export interface PhaseTrace {
  readonly task: string;
  readonly phase: string;
  readonly direction: string;
  readonly status: string;
  /** Programs started and files changed between its `begin` and its `end`; those of phases beside it are among them. */
  readonly acts: number;
  readonly durationMs: number;
}

/** Names the folder with `plan.json`, and with `died.json` and `trace.jsonl` as answers. */
export const DEATH_FOLDER_VARIABLE = "HOSTLER_CHAOS_DEATH";
