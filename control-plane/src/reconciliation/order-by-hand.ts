import type { Operation } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { beginRepair } from "../allocations/repair-allocation.ts";
import { inTransaction } from "../db/transaction.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { getOperation } from "../operations/operations.ts";
import { beginRemoval } from "./remove-slice.ts";
import { readReport } from "./store.ts";

export interface HandOrder {
  readonly nodeId: string;
  readonly allocationId: string;
  readonly actor: string;
  readonly requestId: string;
}

type OrderDeps = Pick<Deps, "sql" | "clock" | "wake">;

/**
 * Removes a slice that is nobody's from its host, known here or not. Throws `not_found` when the host does not show it, `conflict`
 * when it is an allocation's or a task has it.
 */
export async function removeByHand(
  deps: OrderDeps,
  order: HandOrder & { readonly generation: number; readonly reason: string },
): Promise<Operation> {
  const report = await readReport(deps.sql, order.nodeId);
  const entry = report?.slices.find(
    (slice) => slice.allocationId === order.allocationId && slice.generation === order.generation,
  );
  if (entry === undefined)
    throw new AppError("not_found", { detail: "The host's last list does not show this generation of it." });
  const operationId = await inTransaction(
    deps.sql,
    async (tx) => await beginRemoval(tx, deps, { ...order, driver: entry.driver }),
  );
  if (operationId === null)
    throw new AppError("conflict", {
      detail: "It belongs to an allocation (release that), or a task works on it already.",
    });
  deps.wake.wake(nodeTopic(order.nodeId));
  return await getOperation(deps.sql, operationId);
}

/** Brings an active allocation's slice back, with an empty disk where its own is gone. `conflict` when it is not active there. */
export async function rebuildByHand(
  deps: OrderDeps,
  order: HandOrder & { readonly generation: number },
): Promise<Operation> {
  const operationId = await inTransaction(
    deps.sql,
    async (tx) => await beginRepair(tx, deps, { ...order, newDisk: true }),
  );
  if (operationId === null)
    throw new AppError("conflict", {
      detail: "It is not an active allocation's on this host, or a task works on it already.",
    });
  deps.wake.wake(nodeTopic(order.nodeId));
  return await getOperation(deps.sql, operationId);
}
