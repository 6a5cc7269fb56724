import { shortName } from "@hostler/shared/ids.ts";
import { keyOf, type HostThing, type KnownSlice, type Row, type ThingKind, type UnreadSource } from "./model.ts";
import { remedyFor } from "./remedies.ts";

export interface Found {
  readonly things: readonly HostThing[];
  readonly unread: readonly UnreadSource[];
}

export interface Comparison {
  readonly rows: readonly Row[];
  /** Slices that ended on this host and have something left on it: what may be removed without a tombstone. */
  readonly leftoversOf: readonly KnownSlice[];
  /** Why each of these GPUs must not be handed out now. */
  readonly gpuFaults: ReadonlyMap<string, string>;
}

interface Judgement {
  readonly verdict: Row["verdict"];
  readonly why: string;
  readonly remedy: string;
}

const GPU_KINDS: readonly ThingKind[] = ["gpu", "mig instance"];
/** What a slice that is active must have, by driver. */
const EXPECTED: Readonly<Record<string, readonly ThingKind[]>> = {
  qemu: ["ledger row", "disk", "machine"],
  container: ["ledger row", "disk", "machine", "rules"],
  host: ["ledger row", "disk", "account"],
  mock: ["ledger row", "mock object"],
};
const NOTHING_TO_DO = "";
/**
 * Compares what was found on the host with what its journals know. Pure. `isFirst`: the first look of an agent's life, when what
 * runs has outlived another one.
 */
export function compare(
  { things, unread }: Found,
  known: readonly KnownSlice[],
  { isFirst }: { readonly isFirst: boolean },
): Comparison {
  const byName = Map.groupBy(known, (slice) => shortName(slice.allocationId, slice.generation));
  const isSeen = new Set(things.filter(({ kind }) => !GPU_KINDS.includes(kind)).map(({ owner }) => owner));
  const rows: Row[] = [];
  const leftoversOf = new Map<string, KnownSlice>();
  const gpuFaults = new Map<string, string>();
  for (const thing of things) {
    const slice = ownerOf(thing, byName);
    const judgement = judge(thing, slice, { isFirst, isSeen: isSeen.has(thing.owner) });
    rows.push({ kind: thing.kind, name: thing.name, owner: nameOfOwner(thing, slice), ...judgement });
    if (judgement.verdict === "leftover" && slice !== null) leftoversOf.set(keyOf(slice), slice);
    if (judgement.verdict === "quarantined" && thing.gpuUuid !== null) gpuFaults.set(thing.gpuUuid, judgement.why);
  }
  for (const slice of known) rows.push(...rowsOfSlice(slice, things, unread));
  rows.push(...unread.map(rowOfUnread));
  return { rows, leftoversOf: [...leftoversOf.values()], gpuFaults };
}

/** Of two slices with one short name the one that has not ended counts: what carries the name may be its. */
function ownerOf({ owner, slice }: HostThing, byName: ReadonlyMap<string, readonly KnownSlice[]>): KnownSlice | null {
  const candidates = owner === null ? [] : (byName.get(owner) ?? []);
  const named = slice === null ? candidates : candidates.filter((known) => keyOf(known) === keyOf(slice));
  return named.find((known) => known.stage !== "finished") ?? named[0] ?? null;
}

function nameOfOwner({ owner, slice }: HostThing, known: KnownSlice | null): string | null {
  if (known !== null) return keyOf(known);
  return slice === null ? owner : keyOf(slice);
}

function judge(
  thing: HostThing,
  slice: KnownSlice | null,
  context: { readonly isFirst: boolean; readonly isSeen: boolean },
): Judgement {
  if (GPU_KINDS.includes(thing.kind)) return judgeGpu(thing, slice, context);
  if (slice === null) return judgeStranger(thing);
  if (thing.fault !== null && slice.stage !== "in hand") return { ...leftAlone(thing.fault), remedy: remedyFor(thing) };
  return judgeStage(thing, slice, context);
}

function judgeStage(thing: HostThing, slice: KnownSlice, { isFirst }: { readonly isFirst: boolean }): Judgement {
  switch (slice.stage) {
    case "in hand":
      return inOrder("A task works on its slice.");
    case "active":
      return isFirst && (thing.kind === "machine" || thing.kind === "account")
        ? { verdict: "adopted", why: "It ran on while no agent did.", remedy: NOTHING_TO_DO }
        : inOrder("Its slice is active.");
    case "building":
    case "undoing":
    case "releasing":
      return resumed(slice.stage);
    case "finished":
      return {
        verdict: "leftover",
        why: "Its slice ended on this host; the closed journal proves that.",
        remedy: "Nothing: a running agent removes it within a minute.",
      };
    case "unreadable":
      return leftAlone("The journal of its slice cannot be read.");
  }
}

/** Nothing on this host proves whose it is, so nothing here may remove it. */
function judgeStranger(thing: HostThing): Judgement {
  const why = thing.fault ?? (thing.owner === null ? "It names no slice." : "No journal of this host knows its slice.");
  return { ...leftAlone(why), remedy: remedyFor(thing) };
}

/** A GPU is never given back by a look at it: only a release resets it and proves it clean. */
function judgeGpu(thing: HostThing, slice: KnownSlice | null, { isSeen }: { readonly isSeen: boolean }): Judgement {
  if (slice?.stage === "in hand") return inOrder("A task works on its slice.");
  if (thing.fault !== null) return quarantined(thing.fault, thing);
  if (thing.owner === null) return quarantined("No record says for whom it is.", thing);
  if (slice?.stage === "finished")
    return quarantined("Its slice ended on this host, but it was not given back.", thing);
  if (slice !== null) return judgeStage(thing, slice, { isFirst: false });
  // Whatever else is there of the slice, the list of slices tells of it and of its GPUs.
  if (isSeen) return { ...leftAlone("No journal of this host knows its slice."), remedy: remedyFor(thing) };
  return quarantined("Its slice is nowhere on this host.", thing);
}

function rowsOfSlice(slice: KnownSlice, things: readonly HostThing[], unread: readonly UnreadSource[]): Row[] {
  const owner = keyOf(slice);
  const rows: Row[] = slice.hasJournal ? [{ kind: "journal", name: owner, owner, ...judgeJournal(slice) }] : [];
  if (slice.stage !== "active") return rows;
  const name = shortName(slice.allocationId, slice.generation);
  for (const kind of EXPECTED[slice.driver ?? ""] ?? []) {
    const isThere = things.some((thing) => thing.kind === kind && thing.owner === name && thing.fault === null);
    if (isThere || unread.some(({ kinds }) => kinds.includes(kind))) continue;
    const why = `The slice is active and has no ${kind}.`;
    const remedy = "The control plane hears of it with the next list of slices; see: hostler nodes slices.";
    rows.push({ kind, name, owner, verdict: "missing", why, remedy });
  }
  return rows;
}

/** A closed journal stays until its outcome is safe: it is what the next grant of the task is answered with. */
function judgeJournal({ stage }: KnownSlice): Judgement {
  if (stage === "finished") return { ...resumed("releasing"), why: "It is closed; its outcome was not told yet." };
  if (stage === "in hand") return inOrder("A task works on the slice.");
  if (stage === "active") return inOrder("The slice is active.");
  if (stage === "unreadable")
    return { ...leftAlone("It cannot be read."), remedy: "Look at it in the agent's state folder, under journal/." };
  return resumed(stage);
}

function rowOfUnread({ name, kinds, why }: UnreadSource): Row {
  const remedy = "Make it readable; what it would show is unknown until then, and nothing of it is judged gone.";
  return { kind: kinds.join(", "), name, owner: null, verdict: "unknown", why: `It cannot be read: ${why}`, remedy };
}

function inOrder(why: string): Judgement {
  return { verdict: "in_order", why, remedy: NOTHING_TO_DO };
}

function leftAlone(why: string): Judgement {
  return { verdict: "unknown", why, remedy: NOTHING_TO_DO };
}

function resumed(stage: "building" | "undoing" | "releasing"): Judgement {
  const why = `Its task stopped while ${stage}; the journal goes on with the next grant.`;
  return { verdict: "resumed", why, remedy: "Nothing, unless no task comes for it: see hostler nodes slices." };
}

function quarantined(why: string, thing: HostThing): Judgement {
  return { verdict: "quarantined", why, remedy: remedyFor(thing) };
}
