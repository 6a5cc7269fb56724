import type { DriverName, HostAccess } from "@hostler/shared/tasks.ts";
import type { NodeState } from "@hostler/shared/states.ts";

/** What each slice of a request needs of its node. */
export interface PlacementWish {
  readonly driver: DriverName;
  /** For `host` this much at least, like the memory: such a slice gets all that its node has. */
  readonly vcpus: number;
  readonly memoryMib: number;
  /** For `host` exactly so many: what is paid for is what is got. */
  readonly gpus: { readonly count: number; readonly kind: string | null };
  /** What a tenant of a whole host is there; null for other drivers. */
  readonly access: HostAccess | null;
  /** Labels that the node must have. */
  readonly nodeSelector: Readonly<Record<string, string>>;
  /** Slices of the project with the same word are on different nodes; null does not mind. */
  readonly spreadBy: string | null;
  /** What the node's agent must speak at least. */
  readonly protocolVersion: number;
}

/** A node as it was read: nothing is locked. */
export interface Candidate {
  readonly id: string;
  readonly name: string;
  readonly state: NodeState;
  readonly isOnline: boolean;
  readonly isDriverUsable: boolean;
  /** Of its agent when it last started. */
  readonly protocolVersion: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly freeVcpus: number;
  readonly freeMemoryMib: number;
  /** Of the kind that is wished. */
  readonly freeGpus: number;
  /** Whether nobody has anything of it: neither processors and memory nor a GPU. */
  readonly isEmpty: boolean;
  /** Whole cards of any kind and state, and those of them that are handed out in parts. */
  readonly cards: { readonly total: number; readonly divided: number };
  /** Where the kind is a part of cards that the node divides; null where it is none. */
  readonly mig: CandidateMig | null;
  /** A live slice of the same `spreadBy` that is there already. */
  readonly spreadWith: string | null;
}

export interface CandidateMig {
  readonly cards: number;
  /** The largest part that any divided card of the node has a place for, whatever was asked for; null when all are full. */
  readonly largestFree: string | null;
}

/** Machines are given whole GPUs; a part of one has no address that a machine could be given. */
export const PARTS_NEED_CONTAINERS = "MIG slots are given to containers; ask for hostler.dev/driver: container";

export type Choice =
  | { readonly kind: "chosen"; readonly slicesOf: ReadonlyMap<string, number> }
  /** Exactly one reason for each candidate. */
  | { readonly kind: "refused"; readonly reasons: ReadonlyMap<string, string> };

/**
 * Puts all slices of a request on nodes, or says of each node why it did not do. They are all alike, so filling one node after
 * the other finds a way whenever there is one; in the order of the candidates, fullest first, so that large holes stay large. Pure.
 */
export function chooseNodes(candidates: readonly Candidate[], wish: PlacementWish, count: number): Choice {
  const slicesOf = new Map<string, number>();
  let left = count;
  for (const candidate of candidates) {
    const slices = Math.min(left, roomOn(candidate, wish));
    if (slices === 0) continue;
    slicesOf.set(candidate.id, slices);
    left -= slices;
    if (left === 0) return { kind: "chosen", slicesOf };
  }
  const reasons = new Map(
    candidates.map((node) => [
      node.id,
      reasonAgainst(node, wish) ?? `room for ${roomOn(node, wish)} of ${count} slices`,
    ]),
  );
  return { kind: "refused", reasons };
}

/** Why the node takes not even one slice, judging by what was read; null when it might. Pure. */
export function reasonAgainst(node: Candidate, wish: PlacementWish): string | null {
  if (node.state !== "ready") return `the node is ${node.state}`;
  if (!node.isOnline) return "the node is offline";
  if (node.mig !== null && wish.driver === "qemu") return PARTS_NEED_CONTAINERS;
  if (!node.isDriverUsable)
    return `the node cannot run ${wish.driver} slices${wish.access === "root" ? " with root" : ""}`;
  if (node.protocolVersion < wish.protocolVersion)
    return `its agent speaks version ${node.protocolVersion} of the protocol, and ports or limits of bandwidth need ${wish.protocolVersion}: upgrade it`;
  const missing = Object.entries(wish.nodeSelector).find(([key, value]) => node.labels[key] !== value);
  if (missing !== undefined)
    return `the label ${missing[0]} is ${node.labels[missing[0]] ?? "missing"}, not ${missing[1]}`;
  if (wish.spreadBy !== null && node.spreadWith !== null) return `${node.spreadWith} of ${wish.spreadBy} is there`;
  if (wish.driver === "host") {
    const reason = reasonAgainstWhole(node, wish);
    if (reason !== null) return reason;
  }
  if (node.freeGpus < wish.gpus.count) return gpusMissing(node, wish);
  if (node.freeVcpus < wish.vcpus) return `${Math.max(0, node.freeVcpus)} of ${wish.vcpus} vCPUs free`;
  if (node.freeMemoryMib < wish.memoryMib)
    return `${Math.max(0, node.freeMemoryMib)} of ${wish.memoryMib} MiB memory free`;
  return null;
}

/** Why the node cannot be given away whole. */
function reasonAgainstWhole({ isEmpty, cards }: Candidate, { gpus }: PlacementWish): string | null {
  if (!isEmpty) return "other slices are there, and bare metal is the whole host";
  if (cards.divided > 0)
    return `${cards.divided} of its cards ${cards.divided === 1 ? "is" : "are"} handed out in MIG parts, and bare metal takes whole cards`;
  return cards.total === gpus.count
    ? null
    : `it has ${cards.total} GPUs, and bare metal for ${gpus.count} takes a host with exactly so many`;
}

function gpusMissing({ freeGpus, mig }: Candidate, { gpus }: PlacementWish): string {
  const free = `${freeGpus} of ${gpus.count} ${gpus.kind ?? "GPUs"} free`;
  if (mig === null) return free;
  const cards = `${mig.cards} ${mig.cards === 1 ? "card" : "cards"} in MIG`;
  const largest = mig.largestFree === null ? "no place is free" : `largest free profile is ${mig.largestFree}`;
  return freeGpus === 0 ? `${cards}, no place for ${gpus.kind}: ${largest}` : `${free} on ${cards}: ${largest}`;
}

/** How many slices of the request the node has room for. Pure. */
export function roomOn(node: Candidate, wish: PlacementWish): number {
  if (reasonAgainst(node, wish) !== null) return 0;
  if (wish.spreadBy !== null || wish.driver === "host") return 1;
  const byGpus = wish.gpus.count === 0 ? Infinity : Math.floor(node.freeGpus / wish.gpus.count);
  return Math.min(byGpus, Math.floor(node.freeVcpus / wish.vcpus), Math.floor(node.freeMemoryMib / wish.memoryMib));
}
