import { ALLOCATION_TRANSITIONS, canMove, type AllocationState } from "@hostler/shared/states.ts";
import { recordChanges, type Change } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import type { PortViews } from "./ports.ts";
import { moveAllocations, type AllocationRow } from "./store.ts";

export interface AllocationMove {
  readonly target: AllocationState;
  readonly reason: string | null;
  readonly operationId: string;
  readonly actor: string;
  readonly requestId: string | null;
  /** What its host says of its ports, where that is news. */
  readonly ports?: PortViews;
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
  const states = new Map<string, { readonly state: AllocationState; readonly times: number }>();
  const changes: Change[] = [];
  /** A row changes once in a statement: the first moves of all, then the second ones. */
  const rounds: MovedAllocation[][] = [];
  for (const { allocation, move } of moves) {
    const { id } = allocation;
    const { target, reason, operationId, ports = null } = move;
    const { state: source, times } = states.get(id) ?? { state: allocation.state, times: 0 };
    if (!canMove(ALLOCATION_TRANSITIONS, source, target))
      throw new Error(`allocation ${id} cannot move from ${source} to ${target}`);
    states.set(id, { state: target, times: times + 1 });
    (rounds[times] ??= []).push({ id, source, target, reason, operationId, ports });
    changes.push(changeOf(allocation, move, allocation.version + times + 1));
  }
  for (const round of rounds)
    if ((await moveAllocations(tx, round)) !== round.length)
      throw new Error("an allocation whose row was held had moved");
  await recordChanges(tx, deps.clock, changes);
}

export interface MovedAllocation {
  readonly id: string;
  readonly source: AllocationState;
  readonly target: AllocationState;
  readonly reason: string | null;
  readonly operationId: string;
  readonly ports: PortViews | null;
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
