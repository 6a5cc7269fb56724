import { AppError } from "@hostler/shared/errors.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { Tx } from "../db/sql.ts";
import { takePlaces } from "../mig/divided-cards.ts";
import { chooseNodes, PARTS_NEED_CONTAINERS, roomOn, type Candidate, type PlacementWish } from "./choose-nodes.ts";
import {
  holdFreeNodes,
  holdNodes,
  listCandidates,
  lockFreeSlots,
  takeCapacity,
  type Among,
} from "./placement-store.ts";

/** What one slice got. */
export interface Placement {
  readonly nodeId: string;
  /** All that the node has for a slice that is the whole host; else what was asked for. */
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly gpus: readonly Gpu[];
  readonly gpusSimulated: boolean;
}

/** The candidates are read anew after each lost race; whoever won one has its slices, so losing often means a full cloud. */
const ATTEMPTS_MAX = 20;
/** So many nodes with room are looked at first: more than the request and those beside it need, and few of a large fleet. */
const LIKELY = { forEach: 16, least: 32, most: 128 } as const;
/** So many nodes are named in a sentence, and in the facts of a refusal. */
const NAMED_MAX = 20;
export const NODES_SHOWN_MAX = 500;

export interface PlacementRequest {
  readonly projectId: string;
  readonly wish: PlacementWish;
  readonly count: number;
  /** Nodes that are not asked: they had their try. */
  readonly without?: readonly string[];
}

/**
 * Finds nodes for all slices of a request and takes their capacity and GPUs in the caller's transaction, all or nothing. Throws
 * `capacity_unavailable` with what each node has free and why it did not do.
 *
 * Everybody would like the same node, the fullest. So the first round waits for nobody: nodes that other transactions hold are
 * passed over, and only the first with room are read. Only when that leaves no room, the whole fleet is read and the request waits
 * in line.
 */
export async function place(tx: Tx, request: PlacementRequest): Promise<Placement[]> {
  const fittingMax = Math.min(Math.max(LIKELY.least, LIKELY.forEach * request.count), LIKELY.most);
  const likely = await readCandidates(tx, request, { fittingMax });
  const atOnce = await orGiveBack(tx, async (inner) => await placeAtOnce(inner, request, likely));
  if (atOnce !== null) return atOnce;
  let candidates: Candidate[] = [];
  for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
    candidates = await readCandidates(tx, request, "all");
    const choice = chooseNodes(candidates, request.wish, request.count);
    if (choice.kind === "refused") throw capacityError(request, candidates, choice.reasons);
    const nodeIds = [...choice.slicesOf.keys()];
    const placements = await orGiveBack(tx, async (inner) => {
      await holdNodes(inner, nodeIds);
      return await takeHeld(inner, request, nodeIds);
    });
    if (placements !== null) return placements;
  }
  const reasons = new Map(candidates.map((node) => [node.id, "other requests were faster"]));
  throw capacityError(request, candidates, reasons);
}

async function readCandidates(tx: Tx, request: PlacementRequest, among: Among): Promise<Candidate[]> {
  return (await listCandidates(tx, request, among)).filter((node) => !(request.without ?? []).includes(node.id));
}

/** Null, and nothing held or taken, when the work finds that there is not enough. */
async function orGiveBack<Result>(tx: Tx, work: (inner: Tx) => Promise<Result | null>): Promise<Result | null> {
  try {
    const { result } = await tx.savepoint(async (inner) => {
      const found = await work(inner);
      if (found === null) throw new NotEnough();
      return { result: found };
    });
    return result;
  } catch (error) {
    if (error instanceof NotEnough) return null;
    throw error;
  }
}

class NotEnough extends Error {}

/** Holds as many free nodes as the request needs, and more as long as those held have changed meanwhile and do not do. */
async function placeAtOnce(
  tx: Tx,
  request: PlacementRequest,
  candidates: readonly Candidate[],
): Promise<Placement[] | null> {
  const fitting = candidates.filter((node) => roomOn(node, request.wish) > 0).map((node) => node.id);
  const choice = chooseNodes(candidates, request.wish, request.count);
  if (choice.kind === "refused") return null;
  const held: string[] = [];
  for (let wanted = choice.slicesOf.size; held.length < fitting.length; wanted *= 2) {
    const left = fitting.filter((nodeId) => !held.includes(nodeId));
    const more = await holdFreeNodes(tx, left, wanted);
    if (more.length === 0) return null;
    held.push(...more);
    const placements = await takeHeld(tx, request, held);
    if (placements !== null) return placements;
  }
  return null;
}

/** Places everything on nodes whose rows are held: what is read of them now stays true until the commit. */
async function takeHeld(tx: Tx, request: PlacementRequest, heldIds: readonly string[]): Promise<Placement[] | null> {
  const { wish } = request;
  const candidates = await listCandidates(tx, request, { ids: heldIds });
  const choice = chooseNodes(candidates, wish, request.count);
  if (choice.kind === "refused") return null;
  const nodes = [...choice.slicesOf].map(([nodeId, slices]) => ({ nodeId, slices }));
  const gpusOf = await takeGpus(
    tx,
    wish.gpus.kind,
    nodes.map(({ nodeId, slices }) => ({ nodeId, count: wish.gpus.count * slices })),
  );
  if (gpusOf === null) return null;
  const sizes = new Map(candidates.map((node) => [node.id, sizeOn(node, wish)]));
  const sizeOf = (nodeId: string): Size => sizes.get(nodeId) ?? wish;
  const simulated = await takeCapacity(
    tx,
    nodes.map(({ nodeId, slices }) => {
      const { vcpus, memoryMib } = sizeOf(nodeId);
      return { nodeId, vcpus: vcpus * slices, memoryMib: memoryMib * slices };
    }),
  );
  return nodes.flatMap(({ nodeId, slices }) =>
    Array.from({ length: slices }, (_, index) => {
      const gpus = (gpusOf.get(nodeId) ?? []).slice(index * wish.gpus.count, (index + 1) * wish.gpus.count);
      return { nodeId, ...sizeOf(nodeId), gpus, gpusSimulated: gpus.length > 0 && simulated.has(nodeId) };
    }),
  );
}

type Size = Pick<Placement, "vcpus" | "memoryMib">;

/** A host that is given away whole is empty, so what is free is all that it has: nothing is left for anybody beside it. */
function sizeOn(node: Candidate, { driver, vcpus, memoryMib }: PlacementWish): Size {
  return driver === "host" ? { vcpus: node.freeVcpus, memoryMib: node.freeMemoryMib } : { vcpus, memoryMib };
}

/** So many on each node, whole or places on divided cards; null when there are not, because others take them without holding the node. */
async function takeGpus(
  tx: Tx,
  kind: string | null,
  wishes: readonly { readonly nodeId: string; readonly count: number }[],
): Promise<ReadonlyMap<string, readonly Gpu[]> | null> {
  if (wishes.every(({ count }) => count === 0)) return new Map();
  const gpusOf = new Map<string, Gpu[]>(wishes.map(({ nodeId }) => [nodeId, []]));
  for (const { nodeId, gpu } of await lockFreeSlots(tx, [...gpusOf.keys()], kind)) gpusOf.get(nodeId)?.push(gpu);
  const missing = wishes
    .map(({ nodeId, count }) => ({ nodeId, count: count - (gpusOf.get(nodeId) ?? []).length }))
    .filter(({ count }) => count > 0);
  if (missing.length === 0) return gpusOf;
  // Whoever asks for any GPU means a whole one.
  const placesOf = kind === null ? null : await takePlaces(tx, kind, missing);
  if (placesOf === null) return null;
  for (const [nodeId, places] of placesOf) gpusOf.get(nodeId)?.push(...places);
  return gpusOf;
}

/** What an answer shows of a node: what is free there, and why it does not do. */
export function viewOf(node: Candidate, reason: string | null) {
  return {
    id: node.id,
    name: node.name,
    freeGpus: node.freeGpus,
    freeVcpus: Math.max(0, node.freeVcpus),
    freeMemoryMib: Math.max(0, node.freeMemoryMib),
    reason,
  };
}

function capacityError(
  request: PlacementRequest,
  candidates: readonly Candidate[],
  reasons: ReadonlyMap<string, string>,
): AppError {
  const { wish, count } = request;
  if (wish.driver === "qemu" && candidates.some(({ mig }) => mig !== null))
    throw new AppError("validation_failed", { detail: `${wish.gpus.kind}: ${PARTS_NEED_CONTAINERS}.` });
  const nodes = candidates.slice(0, NODES_SHOWN_MAX).map((node) => viewOf(node, reasons.get(node.id) ?? "not tried"));
  const named = nodes.slice(0, NAMED_MAX).map((node) => `${node.name}: ${node.freeGpus} GPUs free (${node.reason})`);
  const more = candidates.length > named.length ? `; and ${candidates.length - named.length} more` : "";
  const where = nodes.length === 0 ? "No host is enrolled." : `${named.join("; ")}${more}`;
  const each = `${wish.gpus.count} ${wish.gpus.kind === null ? "" : `${wish.gpus.kind} `}GPUs, ${wish.vcpus} vCPUs and ${wish.memoryMib} MiB`;
  const what = count === 1 ? `No host has ${each} free.` : `There is no room for ${count} slices with ${each} each.`;
  return new AppError("capacity_unavailable", {
    detail: `${what} ${where}`,
    facts: { requested: wish, count, nodes, nodesLeftOut: candidates.length - nodes.length },
  });
}
