import type { DriverName } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { SliceReference } from "../ports/slice-driver.ts";

/** What a host has of a slice, each sort with a name that its tools know. */
export const THING_KINDS = [
  "journal",
  "ledger row",
  "address",
  "disk",
  "volume",
  "seed",
  "folder",
  "run folder",
  "mount",
  "machine",
  "account",
  "supervised name",
  "interface",
  "rules",
  "mock object",
  "gpu",
  "mig instance",
] as const;
export type ThingKind = (typeof THING_KINDS)[number];

/** One thing that was found on the host and carries our naming. */
export interface HostThing {
  readonly kind: ThingKind;
  /** As the host's own tools call it: a path, an interface, a table. */
  readonly name: string;
  /** The short name of the slice whose it is; null when it is one of ours that names nobody. */
  readonly owner: string | null;
  /** The slice in full, where the thing carries that too. */
  readonly slice: SliceReference | null;
  /** What is wrong with the thing itself. */
  readonly fault: string | null;
  /** The GPU that must not be handed out while the thing is not understood. */
  readonly gpuUuid: string | null;
}

/** How far a slice is on this host, as its journal says; `finished` also when the journal went and its line is left. */
export type KnownStage = "in hand" | "building" | "undoing" | "active" | "releasing" | "finished" | "unreadable";

export interface KnownSlice extends SliceReference {
  readonly driver: DriverName | null;
  readonly stage: KnownStage;
  readonly hasJournal: boolean;
}

/** A source that could not be read: what it would have shown is unknown, and never gone. */
export interface UnreadSource {
  readonly name: string;
  readonly kinds: readonly ThingKind[];
  readonly why: string;
}

/**
 * What is said of a thing:
 *
 *   in_order     as it should be, or in the hands of a task
 *   adopted      ran on while no agent did, and is taken over
 *   resumed      its task stopped on the way; the journal goes on with the next grant
 *   leftover     of a slice that ended on this host, as its journal proves: the agent removes it
 *   undone       was such a leftover, and is gone
 *   missing      of a slice that is active, and not there
 *   quarantined  a GPU, or a part of one, that is not handed out until somebody looked
 *   unknown      left alone: nothing on this host proves whose it is, or it could not be read
 */
export const VERDICTS = [
  "in_order",
  "adopted",
  "resumed",
  "leftover",
  "undone",
  "missing",
  "quarantined",
  "unknown",
] as const;
export type Verdict = (typeof VERDICTS)[number];

export const rowSchema = z.object({
  kind: z.string(),
  name: z.string(),
  /** `alc_….1` where the slice is known in full, else its short name; null for nobody. */
  owner: z.string().nullable(),
  verdict: z.enum(VERDICTS),
  why: z.string(),
  /** What an operator does about it; empty when there is nothing to do. */
  remedy: z.string(),
});
export type Row = z.infer<typeof rowSchema>;

export function keyOf({ allocationId, generation }: SliceReference): string {
  return `${allocationId}.${generation}`;
}

export function isDifference({ verdict }: Row): boolean {
  return verdict !== "in_order" && verdict !== "adopted" && verdict !== "undone";
}
