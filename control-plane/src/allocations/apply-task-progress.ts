import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { advanceOperation, noteOperationProgress } from "../operations/operations.ts";
import type { TaskRow } from "../tasks/task-row.ts";
import { moveAndRecord } from "./record-allocation.ts";
import { lockAllocation } from "./store.ts";

/** What a host's first and every later sign of work does to the operation and its allocation. */
export async function applyTaskProgress(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  progress: { readonly task: TaskRow; readonly requestId: string },
): Promise<void> {
  const { task } = progress;
  if (task.operationId === null) return;
  await advanceOperation(tx, task.operationId, "running");
  await noteOperationProgress(tx, task.operationId, task.id);
  if (task.kind !== "slice.vm_provision") return;
  const allocation = await lockAllocation(tx, task.targetId);
  if (allocation?.state !== "requested") return;
  const move = {
    target: "provisioning",
    reason: null,
    operationId: task.operationId,
    actor: `node:${task.nodeId}`,
    requestId: progress.requestId,
  } as const;
  await moveAndRecord(tx, deps, allocation, move);
}
