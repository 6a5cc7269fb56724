import type { SliceEntry } from "@hostler/shared/node-protocol.ts";
import type { AllocationState } from "@hostler/shared/states.ts";

/**
 * What a host has, against what is wanted of it. Pure.
 *
 * A list is a view of the past, so it judges only what cannot have moved since. A slice is left undecided when a task of it waits
 * or is held, when the list shows it in a task's hands, or when a task of it was granted that the host had not taken when it
 * began to look (its sequence is above the list's mark). What was taken before had ended by then, or was in hand, which the
 * list shows; so the list knows the end of every task that this side has settled.
 *
 * Absence is weak: a slice that a list does not name is never removed anywhere, and a slice that this side does not know is
 * `unknown`, which no correction touches.
 */
export type FindingKind = "stopped" | "gone" | "unclear" | "orphan" | "zombie" | "unknown" | "drift";

export interface WantedSlice {
  readonly allocationId: string;
  readonly generation: number;
  readonly driver: SliceEntry["driver"];
  readonly state: AllocationState;
  readonly gpuUuids: readonly string[];
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskGib: number;
}

export interface Comparison {
  /** Everything of the node that lives, and what became of what else the list names. */
  readonly wanted: readonly WantedSlice[];
  readonly list: {
    readonly highWaterMark: number;
    readonly isWhole: boolean;
    readonly slices: readonly SliceEntry[];
  };
  readonly tasks: ReadonlyMap<string, { readonly lastSeq: number; readonly hasLive: boolean }>;
}

export interface Finding {
  readonly kind: FindingKind;
  readonly allocationId: string;
  readonly generation: number;
  readonly driver: SliceEntry["driver"];
  /** A sentence for operators. */
  readonly detail: string;
  /** The GPUs that the host shows as held by it. */
  readonly gpuUuids: readonly string[];
}

export interface Difference {
  /** In the order of allocation, generation and kind. */
  readonly findings: readonly Finding[];
  /** Allocations that this list says nothing about. */
  readonly undecided: readonly string[];
}

/** What each state of an allocation wants of its host. */
const WANTS: Readonly<Record<AllocationState, "running" | "anything" | "nothing" | "task">> = {
  requested: "task",
  provisioning: "task",
  active: "running",
  releasing: "task",
  // What is left of it waits for an operator; its slots are its own.
  release_failed: "anything",
  released: "nothing",
  failed: "nothing",
};

export function diffSlices(comparison: Comparison): Difference {
  const { wanted, list } = comparison;
  const shown = new Map(list.slices.map((entry) => [keyOf(entry), entry]));
  const undecided = undecidedOf(comparison);
  const generations = new Map(wanted.map((slice) => [slice.allocationId, slice.generation]));
  const findings = [
    ...wanted.map((slice) => judgeWanted(slice, shown.get(keyOf(slice)), list.isWhole)),
    ...list.slices.map((entry) => judgeOther(entry, generations.get(entry.allocationId))),
  ];
  return {
    findings: findings
      .filter((finding) => finding !== null)
      .filter((finding) => !undecided.has(finding.allocationId))
      .toSorted((a, b) => (orderOf(a) < orderOf(b) ? -1 : 1)),
    undecided: [...undecided].toSorted(),
  };
}

function undecidedOf({ wanted, list, tasks }: Comparison): ReadonlySet<string> {
  const undecided = new Set<string>();
  const shown = new Set(list.slices.map(keyOf));
  for (const [allocationId, { lastSeq, hasLive }] of tasks)
    if (hasLive || lastSeq > list.highWaterMark) undecided.add(allocationId);
  for (const { allocationId, state } of list.slices)
    if (state === "building" || state === "releasing") undecided.add(allocationId);
  for (const slice of wanted) {
    if (WANTS[slice.state] === "task") undecided.add(slice.allocationId);
    if (!list.isWhole && !shown.has(keyOf(slice))) undecided.add(slice.allocationId);
  }
  return undecided;
}

function judgeWanted(slice: WantedSlice, entry: SliceEntry | undefined, isWhole: boolean): Finding | null {
  const wants = WANTS[slice.state];
  if (wants === "nothing") {
    return entry === undefined
      ? null
      : findingOf("orphan", entry, `The allocation is ${slice.state}, and the host has it ${entry.state}.`);
  }
  if (wants !== "running") return null;
  if (entry === undefined) {
    return isWhole ? findingOf("gone", { ...slice, gpuUuids: [] }, "The host has nothing of it.") : null;
  }
  switch (entry.state) {
    case "building":
    case "releasing":
      return null;
    case "stopped":
      return findingOf("stopped", entry, "Its machine ended; its disk is there.");
    case "lost":
      return findingOf("gone", entry, "Its disk is gone.");
    case "unclear":
      return findingOf("unclear", entry, "Something of it is there, but the host cannot tell what.");
    case "running": {
      const fields = driftOf(slice, entry);
      return fields.length === 0 ? null : findingOf("drift", entry, `It differs: ${fields.join("; ")}.`);
    }
  }
}

/** What the list names beside what is wanted under the same generation. */
function judgeOther(entry: SliceEntry, generation: number | undefined): Finding | null {
  if (generation === undefined)
    return findingOf("unknown", entry, `Nobody here knows it; the host has it ${entry.state}.`);
  if (entry.generation === generation) return null;
  const detail = `The host has generation ${entry.generation}, ${entry.state}; here it is ${generation}.`;
  // A generation that is not given out yet is from a time that this database does not remember.
  return findingOf(entry.generation < generation ? "zombie" : "unknown", entry, detail);
}

function driftOf(slice: WantedSlice, entry: SliceEntry): string[] {
  const pairs = {
    driver: [slice.driver, entry.driver],
    gpus: [gpusText(slice.gpuUuids), gpusText(entry.gpuUuids)],
    vcpus: [slice.vcpus, entry.vcpus],
    memoryMib: [slice.memoryMib, entry.memoryMib],
    diskGib: [slice.diskGib, entry.diskGib],
  };
  return Object.entries(pairs).flatMap(([field, [wanted, found]]) =>
    wanted === found ? [] : [`${field} is ${found ?? "not known to the host"}, not ${wanted}`],
  );
}

function gpusText(uuids: readonly string[]): string {
  return uuids.length === 0 ? "none" : [...new Set(uuids)].toSorted().join(" ");
}

function findingOf(
  kind: FindingKind,
  about: Pick<SliceEntry, "allocationId" | "generation" | "driver" | "gpuUuids">,
  detail: string,
): Finding {
  const { allocationId, generation, driver, gpuUuids } = about;
  return { kind, allocationId, generation, driver, detail: detail.slice(0, 500), gpuUuids: [...gpuUuids].toSorted() };
}

function keyOf(slice: { readonly allocationId: string; readonly generation: number }): string {
  return `${slice.allocationId}.${slice.generation}`;
}

function orderOf({ allocationId, generation, kind }: Finding): string {
  return `${allocationId}.${String(generation).padStart(10, "0")}.${kind}`;
}
