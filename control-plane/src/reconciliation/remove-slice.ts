import { newId } from "@hostler/shared/ids.ts";
import type { SliceEntry } from "@hostler/shared/node-protocol.ts";
import { RELEASE_PHASE_NAMES } from "@hostler/shared/phases.ts";
import { isSliceWanted } from "../allocations/placed-slices.ts";
import { insertAuditRow } from "../audit/store.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { openOperation } from "../operations/operations.ts";
import { enqueueTask } from "../tasks/enqueue-task.ts";
import { sliceTasksOf } from "../tasks/slice-tasks.ts";

/** A host that does not take the tombstone within it is given a new one, if it still shows the slice then. */
const REMOVAL_EXPIRES_MS = 15 * 60_000;

export interface RemovalOrder {
  readonly nodeId: string;
  readonly allocationId: string;
  readonly generation: number;
  readonly driver: SliceEntry["driver"];
  /** Why it has to go; the tombstone carries it. */
  readonly reason: string;
  readonly actor: string;
  readonly requestId: string | null;
}

/**
 * Writes the tombstone of a slice that is nobody's: a signed task, the only way by which anything is removed from a host without
 * a release. Resolves with the operation, or null when the slice is somebody's, or a task works on it already.
 */
export async function beginRemoval(tx: Tx, deps: Pick<Deps, "clock">, order: RemovalOrder): Promise<string | null> {
  const { nodeId, allocationId, generation, driver, actor, requestId } = order;
  if (await isSliceWanted(tx, order)) return null;
  const tasks = await sliceTasksOf(tx, { nodeId, allocationIds: [allocationId] });
  if (tasks.get(allocationId)?.hasLive === true) return null;
  const reason = order.reason.slice(0, 500);
  const operationId = newId("operation", deps.clock);
  await openOperation(tx, {
    id: operationId,
    kind: "slice.remove",
    targetId: allocationId,
    projectId: null,
    phasesTotal: RELEASE_PHASE_NAMES.length,
  });
  await enqueueTask(tx, deps, {
    nodeId,
    kind: "slice.remove",
    params: { allocationId, generation, driver, reason },
    targetId: allocationId,
    operationId,
    expiresInMs: REMOVAL_EXPIRES_MS,
  });
  await insertAuditRow(tx, {
    actor,
    action: "slice.removal_ordered",
    targetId: allocationId,
    targetVersion: null,
    outcome: "succeeded",
    requestId,
    detail: { nodeId, generation, driver, reason, operationId },
  });
  return operationId;
}
