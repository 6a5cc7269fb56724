import { FAILURE_CLASS_NAMES } from "@hostler/shared/states.ts";
import { driverNameSchema, fenceSchema, resultClaimsSchema, type DriverName } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import type { Facts } from "../ports/slice-driver.ts";

/**
 * The story of one slice on this host, as records that are only ever added:
 *
 *   opened ─► begin/end of each phase ─► sealed ─► begin/end of each release phase ─► closed
 *                  │                      └─► begin/end/failed of a repair: sealed it stays
 *                  └─► failed ─► begin/end of each undo, newest first ─────────────────┘
 *
 * `begin` is on disk before the effect, so what may exist is always a subset of what has begun. State is what the
 * records add up to; nothing else is kept.
 */
const at = z.string();
const factsSchema = z.record(z.string(), z.unknown());
const phaseKey = { task: z.enum(["provision", "release"]), phase: z.string(), direction: z.enum(["apply", "undo"]) };
const outcomeSchema = resultClaimsSchema.pick({ outcome: true, facts: true, failure: true });
export type Outcome = z.infer<typeof outcomeSchema>;

export const journalRecordSchema = z.discriminatedUnion("kind", [
  z.object({
    kind: z.literal("opened"),
    at,
    allocationId: z.string(),
    generation: z.int(),
    driver: driverNameSchema,
    /** Null when the first task that this host saw for the slice is its release. */
    specDigest: z.string().nullable(),
    fence: fenceSchema,
  }),
  z.object({ kind: z.literal("begin"), at, ...phaseKey, attempt: z.int(), fence: fenceSchema, facts: factsSchema }),
  z.object({
    kind: z.literal("end"),
    at,
    ...phaseKey,
    status: z.enum(["done", "not_needed"]),
    facts: factsSchema,
    durationMs: z.number(),
  }),
  z.object({
    kind: z.literal("failed"),
    at,
    ...phaseKey,
    code: z.string(),
    class: z.enum(FAILURE_CLASS_NAMES),
    message: z.string(),
    facts: factsSchema,
  }),
  z.object({ kind: z.literal("sealed"), at }),
  z.object({ kind: z.literal("closed"), at, ...outcomeSchema.shape }),
]);
export type JournalRecord = z.infer<typeof journalRecordSchema>;
export type TaskSide = "provision" | "release";

export interface PhaseRecord {
  readonly status: "begun" | "done" | "not_needed" | "failed";
  /** How far the undo of this phase got; `none` when it never began. */
  readonly undo: "none" | "begun" | "done" | "failed";
  readonly facts: Facts;
  readonly durationMs: number;
}

export interface JournalFailure {
  readonly phase: string;
  readonly code: string;
  readonly class: (typeof FAILURE_CLASS_NAMES)[number];
  readonly message: string;
  readonly facts: Facts;
}

export interface JournalState {
  readonly allocationId: string;
  readonly generation: number;
  readonly driver: DriverName;
  readonly specDigest: string | null;
  /** The highest grant that acted. */
  readonly fence: string;
  readonly provision: Readonly<Record<string, PhaseRecord>>;
  readonly release: Readonly<Record<string, PhaseRecord>>;
  /** Why provisioning stopped; from then on the only way is undo. */
  readonly failure: JournalFailure | null;
  readonly sealed: boolean;
  readonly closed: Outcome | null;
}

/** Adds one record. The first must be `opened`; the records are our own, so anything else is a bug. */
export function addRecord(state: JournalState | null, record: JournalRecord): JournalState {
  if (record.kind === "opened") {
    if (state !== null) throw new Error("A journal is opened once.");
    const { allocationId, generation, driver, specDigest, fence } = record;
    return {
      allocationId,
      generation,
      driver,
      specDigest,
      fence,
      provision: {},
      release: {},
      failure: null,
      sealed: false,
      closed: null,
    };
  }
  if (state === null) throw new Error("A journal begins with `opened`.");
  switch (record.kind) {
    case "begin":
    case "end":
      return addPhase(state, record);
    case "failed": {
      const next = addPhase(state, record);
      // A sealed slice is a tenant's: a repair of it that fails is tried again, and never undone.
      const isFirst =
        record.task === "provision" && record.direction === "apply" && state.failure === null && !state.sealed;
      const { phase, code, message, facts } = record;
      return isFirst ? { ...next, failure: { phase, code, class: record.class, message, facts } } : next;
    }
    case "sealed":
      return { ...state, sealed: true };
    case "closed":
      return { ...state, closed: { outcome: record.outcome, facts: record.facts, failure: record.failure } };
  }
}

/** Whole records of a journal's text. A last line that is cut short or unreadable was being written when the host died: it is not there. */
export function parseJournal(text: string): {
  readonly records: readonly JournalRecord[];
  readonly wholeText: string;
  readonly isTorn: boolean;
} {
  const lines = text.split("\n");
  // Text after the last newline, empty when the last write was whole.
  lines.pop();
  const records: JournalRecord[] = [];
  for (const [index, line] of lines.entries()) {
    const record = parseLine(line);
    if (record === null && index < lines.length - 1)
      throw new Error(`Journal line ${index + 1} cannot be read; only the last line may be cut short.`);
    if (record !== null) records.push(record);
  }
  const wholeText = lines
    .slice(0, records.length)
    .map((line) => `${line}\n`)
    .join("");
  return { records, wholeText, isTorn: wholeText.length < text.length };
}

/** Where the slice is on its way, in a word. */
export function stageOf(state: JournalState): "building" | "undoing" | "active" | "releasing" | "closed" {
  if (state.closed !== null) return "closed";
  if (Object.keys(state.release).length > 0) return "releasing";
  if (state.failure !== null) return "undoing";
  return state.sealed ? "active" : "building";
}

/** The phases' facts by phase, of those that count now. */
export function factsOf(records: Readonly<Record<string, PhaseRecord>>): Record<string, Facts> {
  const settled = Object.entries(records).filter(
    ([, record]) => record.status === "done" || record.status === "not_needed",
  );
  return Object.fromEntries(settled.map(([phase, record]) => [phase, record.facts]));
}

export function isLowerFence(fence: string, other: string): boolean {
  return BigInt(fence) < BigInt(other);
}

function parseLine(line: string): JournalRecord | null {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    // Cut short; the caller decides whether that is allowed at this place.
    return null;
  }
  return journalRecordSchema.parse(value);
}

type PhaseChange = Extract<JournalRecord, { kind: "begin" | "end" | "failed" }>;

function addPhase(state: JournalState, record: PhaseChange): JournalState {
  const before = state[record.task][record.phase] ?? { status: "begun", undo: "none", facts: {}, durationMs: 0 };
  const phases = {
    ...state[record.task],
    [record.phase]: record.direction === "apply" ? applied(before, record) : undone(before, record),
  };
  const fence = record.kind === "begin" && isLowerFence(state.fence, record.fence) ? record.fence : state.fence;
  return { ...state, fence, [record.task]: phases };
}

function applied(before: PhaseRecord, record: PhaseChange): PhaseRecord {
  if (record.kind === "begin") return { status: "begun", undo: "none", facts: record.facts, durationMs: 0 };
  if (record.kind === "end")
    return { status: record.status, undo: "none", facts: record.facts, durationMs: record.durationMs };
  return { ...before, status: "failed" };
}

function undone(before: PhaseRecord, record: PhaseChange): PhaseRecord {
  if (record.kind === "begin") return { ...before, undo: "begun" };
  return { ...before, undo: record.kind === "end" ? "done" : "failed" };
}
