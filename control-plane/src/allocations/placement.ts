import { AppError } from "@hostler/shared/errors.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { Tx } from "../db/sql.ts";
import { chooseNodes, type Candidate, type PlacementWish } from "./choose-nodes.ts";
import { findGroupMember, listCandidates, lockFreeSlots, takeCapacity } from "./placement-store.ts";

/** What one slice got. */
export interface Placement {
  readonly nodeId: string;
  readonly gpus: readonly Gpu[];
  readonly gpusSimulated: boolean;
}

/** The candidates are read anew after each lost race; whoever won one has its slices, so losing often means a full cloud. */
const ATTEMPTS_MAX = 20;
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
 * Everybody would like the same node, the fullest. So the first round waits for nobody: a node that another transaction holds is
 * passed over. Only when that leaves no room, the request waits in line.
 */
export async function place(tx: Tx, request: PlacementRequest): Promise<Placement[]> {
  let candidates: readonly Candidate[] = await listCandidates(tx, request);
  const atOnce = await placeAtOnce(tx, request, candidates);
  if (atOnce !== null) return atOnce;
  for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
    candidates = (await listCandidates(tx, request)).filter((node) => !(request.without ?? []).includes(node.id));
    const choice = chooseNodes(candidates, request.wish, request.count);
    if (choice.kind === "refused") throw capacityError(request, candidates, choice.reasons);
    const taken = await tryNodes(tx, request, { slicesOf: choice.slicesOf, isWaiting: true });
    if (!("lostNodeId" in taken)) return taken.placements;
  }
  const reasons = new Map(candidates.map((node) => [node.id, "other requests were faster"]));
  throw capacityError(request, candidates, reasons);
}

async function placeAtOnce(
  tx: Tx,
  request: PlacementRequest,
  candidates: readonly Candidate[],
): Promise<Placement[] | null> {
  let left = candidates;
  for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
    const choice = chooseNodes(left, request.wish, request.count);
    if (choice.kind === "refused") return null;
    const taken = await tryNodes(tx, request, { slicesOf: choice.slicesOf, isWaiting: false });
    if (!("lostNodeId" in taken)) return taken.placements;
    left = left.filter((node) => node.id !== taken.lostNodeId);
  }
  return null;
}

type Taken = { readonly placements: Placement[] } | { readonly lostNodeId: string };

/** In the order of their ids, so that two requests for several nodes never wait for each other. */
async function tryNodes(
  tx: Tx,
  request: PlacementRequest,
  choice: { readonly slicesOf: ReadonlyMap<string, number>; readonly isWaiting: boolean },
): Promise<Taken> {
  const { isWaiting } = choice;
  const nodes = [...choice.slicesOf].toSorted(([a], [b]) => (a < b ? -1 : 1));
  try {
    return await tx.savepoint(async (inner) => {
      const placements: Placement[] = [];
      for (const [nodeId, slices] of nodes)
        placements.push(...(await takeNode(inner, request, { nodeId, slices, isWaiting })));
      return { placements };
    });
  } catch (error) {
    // The savepoint gave everything back that was taken so far.
    if (error instanceof LostRace) return { lostNodeId: error.nodeId };
    throw error;
  }
}

/** Holds the node's row from its first statement on: what is checked after it stays true until the commit. */
async function takeNode(
  tx: Tx,
  request: PlacementRequest,
  part: { readonly nodeId: string; readonly slices: number; readonly isWaiting: boolean },
): Promise<Placement[]> {
  const { wish, projectId } = request;
  const { nodeId, slices, isWaiting } = part;
  const node = await takeCapacity(tx, {
    nodeId,
    isWaiting,
    vcpus: wish.vcpus * slices,
    memoryMib: wish.memoryMib * slices,
    nodeSelector: wish.nodeSelector,
  });
  if (node === undefined) throw new LostRace(nodeId);
  if (wish.spreadBy !== null && (await findGroupMember(tx, { nodeId, projectId, spreadBy: wish.spreadBy })))
    throw new LostRace(nodeId);
  const wanted = wish.gpus.count * slices;
  const gpus = wanted === 0 ? [] : await lockFreeSlots(tx, { nodeId, kind: wish.gpus.kind, count: wanted });
  if (gpus.length < wanted) throw new LostRace(nodeId);
  return Array.from({ length: slices }, (_, index) => {
    const own = gpus.slice(index * wish.gpus.count, (index + 1) * wish.gpus.count);
    return { nodeId, gpus: own, gpusSimulated: own.length > 0 && node.gpusSimulated };
  });
}

class LostRace extends Error {
  readonly nodeId: string;

  constructor(nodeId: string) {
    super(`lost ${nodeId}`);
    this.nodeId = nodeId;
  }
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
