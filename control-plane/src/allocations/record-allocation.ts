import type { AllocationState } from "@hostler/shared/states.ts";
import { recordChange } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { moveAllocation, type AllocationRow } from "./store.ts";

export interface AllocationMove {
  readonly target: AllocationState;
  readonly reason: string | null;
  readonly operationId: string;
  readonly actor: string;
  readonly requestId: string | null;
}

/** Moves an allocation and writes the event and audit row of the move. A move that the table does not allow is a bug of the caller. */
export async function moveAndRecord(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  allocation: AllocationRow,
  move: AllocationMove,
): Promise<void> {
  const version = await moveAllocation(tx, {
    id: allocation.id,
    target: move.target,
    reason: move.reason,
    operationId: move.operationId,
  });
  if (version === undefined)
    throw new Error(`allocation ${allocation.id} cannot move from ${allocation.state} to ${move.target}`);
  await recordChange(tx, deps.clock, {
    actor: move.actor,
    topic: `allocation.${move.target}`,
    targetId: allocation.id,
    targetVersion: version,
    projectId: allocation.projectId,
    requestId: move.requestId,
    body: {
      operationId: move.operationId,
      nodeId: allocation.nodeId,
      ...(move.reason === null ? {} : { reason: move.reason }),
    },
  });
}
