import { ALLOCATION_TRANSITIONS, canMove, type AllocationState } from "@hostler/shared/states.ts";
import { recordChanges, type Change } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { moveAllocations, type AllocationRow } from "./store.ts";

export interface AllocationMove {
  readonly target: AllocationState;
  readonly reason: string | null;
  readonly operationId: string;
  readonly actor: string;
  readonly requestId: string | null;
}

/**
 * Moves allocations whose rows the caller holds, each with its event and audit row; of several moves of one, each is made and told of
 * in order. A move that the table does not allow is a bug of the caller.
 */
export async function moveAllAndRecord(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  moves: readonly { readonly allocation: AllocationRow; readonly move: AllocationMove }[],
): Promise<void> {
  const states = new Map<string, { state: AllocationState; version: number }>();
  const changes: Change[] = [];
  let round: MovedAllocation[] = [];
  const makeRound = async (): Promise<void> => {
    if (round.length > 0 && (await moveAllocations(tx, round)) !== round.length)
      throw new Error("an allocation whose row was held had moved");
    round = [];
  };
  for (const { allocation, move } of moves) {
    const before = states.get(allocation.id) ?? allocation;
    if (!canMove(ALLOCATION_TRANSITIONS, before.state, move.target))
      throw new Error(`allocation ${allocation.id} cannot move from ${before.state} to ${move.target}`);
    // A row changes once in a statement.
    if (round.some(({ id }) => id === allocation.id)) await makeRound();
    const { target, reason, operationId } = move;
    round.push({ id: allocation.id, source: before.state, target, reason, operationId });
    const version = before.version + 1;
    states.set(allocation.id, { state: target, version });
    changes.push(changeOf(allocation, move, version));
  }
  await makeRound();
  await recordChanges(tx, deps.clock, changes);
}

export interface MovedAllocation {
  readonly id: string;
  readonly source: AllocationState;
  readonly target: AllocationState;
  readonly reason: string | null;
  readonly operationId: string;
}

function changeOf(allocation: AllocationRow, move: AllocationMove, version: number): Change {
  const { operationId, reason } = move;
  return {
    actor: move.actor,
    topic: `allocation.${move.target}`,
    targetId: allocation.id,
    targetVersion: version,
    projectId: allocation.projectId,
    requestId: move.requestId,
    body: { operationId, nodeId: allocation.nodeId, ...(reason === null ? {} : { reason }) },
  };
}
