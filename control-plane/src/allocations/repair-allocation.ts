import { newId } from "@hostler/shared/ids.ts";
import { PROVISION_PHASE_NAMES } from "@hostler/shared/phases.ts";
import { sliceSpecSchema, type TaskOutcome } from "@hostler/shared/tasks.ts";
import { recordChange } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { openOperation } from "../operations/operations.ts";
import { enqueueTask } from "../tasks/enqueue-task.ts";
import { sliceTasksOf } from "../tasks/slice-tasks.ts";
import type { TaskRow } from "../tasks/task-row.ts";
import { raiseVersion, readSpec } from "./slice-store.ts";
import { lockAllocation, type AllocationRow } from "./store.ts";

/** A host that is back and lost again meanwhile is looked at anew. */
const REPAIR_EXPIRES_MS = 15 * 60_000;

export interface RepairOrder {
  readonly nodeId: string;
  readonly allocationId: string;
  readonly generation: number;
  /** Whether an empty disk may be made where the slice's own is gone. */
  readonly newDisk: boolean;
  readonly actor: string;
  readonly requestId: string | null;
}

/**
 * Orders a slice's host to bring it back, by an operation of its own. The allocation stays active whatever becomes of it.
 * Resolves with the operation, or null when there is nothing to repair (any more): the allocation is not active there, or a
 * task works on it already.
 */
export async function beginRepair(tx: Tx, deps: Pick<Deps, "clock">, order: RepairOrder): Promise<string | null> {
  const { nodeId, allocationId, generation, newDisk } = order;
  const allocation = await lockAllocation(tx, allocationId);
  if (allocation?.state !== "active" || allocation.nodeId !== nodeId || allocation.generation !== generation)
    return null;
  const tasks = await sliceTasksOf(tx, { nodeId, allocationIds: [allocationId] });
  const specText = await readSpec(tx, allocationId);
  if (tasks.get(allocationId)?.hasLive === true || specText === null) return null;
  const operationId = newId("operation", deps.clock);
  const { projectId } = allocation;
  const phasesTotal = PROVISION_PHASE_NAMES.length;
  await openOperation(tx, {
    id: operationId,
    kind: "allocation.repair",
    targetId: allocationId,
    projectId,
    phasesTotal,
  });
  const spec = sliceSpecSchema.parse(JSON.parse(specText));
  await enqueueTask(tx, deps, {
    nodeId,
    kind: "slice.vm_repair",
    params: { spec, newDisk },
    targetId: allocationId,
    operationId,
    expiresInMs: REPAIR_EXPIRES_MS,
  });
  await record(tx, deps, { allocation, topic: "allocation.repair_started", operationId, ...order });
  return operationId;
}

/** How a repair ended, told to whoever follows the allocation; its state is its own. */
export async function endRepair(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  ended: { readonly task: TaskRow; readonly allocation: AllocationRow; readonly outcome: TaskOutcome },
): Promise<void> {
  const { task, allocation, outcome } = ended;
  // It was given back meanwhile: that operation tells the rest.
  if (allocation.state !== "active") return;
  await record(tx, deps, {
    allocation,
    topic: outcome === "succeeded" ? "allocation.repaired" : "allocation.repair_failed",
    operationId: task.operationId ?? allocation.operationId,
    actor: `node:${task.nodeId}`,
    requestId: null,
  });
}

async function record(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  change: {
    readonly allocation: AllocationRow;
    readonly topic: string;
    readonly operationId: string;
    readonly actor: string;
    readonly requestId: string | null;
  },
): Promise<void> {
  const { allocation, topic, operationId, actor, requestId } = change;
  await recordChange(tx, deps.clock, {
    actor,
    topic,
    targetId: allocation.id,
    targetVersion: await raiseVersion(tx, allocation.id, operationId),
    projectId: allocation.projectId,
    requestId,
    body: { operationId, nodeId: allocation.nodeId },
  });
}
