import { AppError } from "@hostler/shared/errors.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { Tx } from "../db/sql.ts";
import { listCandidates, lockFreeSlots, takeCapacity } from "./store.ts";

export interface PlacementWish {
  readonly driver: "qemu" | "mock";
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly gpus: { readonly count: number; readonly kind: string | null };
}

export interface Placement {
  readonly nodeId: string;
  readonly gpus: readonly Gpu[];
  readonly gpusSimulated: boolean;
}

type Candidate = Awaited<ReturnType<typeof listCandidates>>[number];

/**
 * Finds a node and takes its capacity and slots, all or nothing, in the caller's transaction. Throws `capacity_unavailable`
 * with what each node has free and why it did not do.
 */
export async function place(tx: Tx, wish: PlacementWish): Promise<Placement> {
  const candidates = await listCandidates(tx, { driver: wish.driver, gpuKind: wish.gpus.kind });
  const refusals = new Map<string, string>();
  for (const candidate of candidates) {
    const reason = reasonAgainst(candidate, wish);
    const placement = reason === null ? await tryNode(tx, candidate.id, wish) : null;
    if (placement !== null) return placement;
    refusals.set(candidate.id, reason ?? "another request was faster");
  }
  throw capacityError(wish, candidates, refusals);
}

/** Why the node cannot take it, judging by what was read; null when it might. Pure. */
export function reasonAgainst(node: Candidate, wish: PlacementWish): string | null {
  if (node.state !== "ready") return `the node is ${node.state}`;
  if (!node.isOnline) return "the node is offline";
  if (!node.isDriverUsable) return `the node cannot run ${wish.driver} slices`;
  if (node.freeGpus < wish.gpus.count) return `${node.freeGpus} of ${wish.gpus.count} ${wish.gpus.kind ?? "GPUs"} free`;
  if (node.freeVcpus < wish.vcpus) return `${Math.max(0, node.freeVcpus)} of ${wish.vcpus} vCPUs free`;
  if (node.freeMemoryMib < wish.memoryMib)
    return `${Math.max(0, node.freeMemoryMib)} of ${wish.memoryMib} MiB memory free`;
  return null;
}

async function tryNode(tx: Tx, nodeId: string, wish: PlacementWish): Promise<Placement | null> {
  return await tx
    .savepoint(async (inner) => {
      const node = await takeCapacity(inner, { nodeId, vcpus: wish.vcpus, memoryMib: wish.memoryMib });
      if (node === undefined) return null;
      const gpus = wish.gpus.count === 0 ? [] : await lockFreeSlots(inner, { nodeId, ...wish.gpus });
      if (gpus.length < wish.gpus.count) throw new NotEnoughSlots();
      return { nodeId, gpus, gpusSimulated: gpus.length > 0 && node.gpusSimulated };
    })
    .catch((error: unknown) => {
      // The savepoint gave the processors and memory back.
      if (error instanceof NotEnoughSlots) return null;
      throw error;
    });
}

class NotEnoughSlots extends Error {}

function capacityError(
  wish: PlacementWish,
  candidates: readonly Candidate[],
  refusals: ReadonlyMap<string, string>,
): AppError {
  const nodes = candidates.map((node) => ({
    id: node.id,
    name: node.name,
    freeGpus: node.freeGpus,
    freeVcpus: Math.max(0, node.freeVcpus),
    freeMemoryMib: Math.max(0, node.freeMemoryMib),
    reason: refusals.get(node.id) ?? "not tried",
  }));
  const what = `${wish.gpus.count} ${wish.gpus.kind ?? ""} GPUs, ${wish.vcpus} vCPUs and ${wish.memoryMib} MiB`.replace(
    "  ",
    " ",
  );
  const where =
    nodes.length === 0
      ? "No host is enrolled."
      : nodes.map((node) => `${node.name}: ${node.freeGpus} GPUs free (${node.reason})`).join("; ");
  return new AppError("capacity_unavailable", {
    detail: `No host has ${what} free. ${where}`,
    facts: { requested: wish, nodes },
  });
}
