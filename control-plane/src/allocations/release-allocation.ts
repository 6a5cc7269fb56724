import type { AllocationOperation } from "@hostler/shared/api/allocations.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { nodeTopic, operationTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { requireInProject, type Principal } from "../identity/permissions.ts";
import { advanceOperation } from "../operations/operations.ts";
import { cancelOperationTask, holdTasksAbout } from "../tasks/cancel-operation-task.ts";
import { beginRelease } from "./begin-release.ts";
import { getAllocationOperation } from "./read-allocation.ts";
import { moveAllAndRecord } from "./record-allocation.ts";
import { freeSlotsOf, giveCapacityBack, isDrainDue, lockAllocation, type AllocationRow } from "./store.ts";

export interface ReleaseRequest {
  readonly principal: Principal;
  readonly allocationId: string;
  readonly requestId: string;
}

/**
 * Gives a slice back. An active one gets a release task; one that is being built is cancelled, and the host undoes it; one
 * that no host has begun is gone at once. Asking again answers with the operation in progress.
 */
export async function releaseAllocation(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  request: ReleaseRequest,
): Promise<AllocationOperation> {
  const touched = await inTransaction(deps.sql, async (tx) => {
    await holdTasksAbout(tx, request.allocationId);
    const allocation = await lockAllocation(tx, request.allocationId);
    if (allocation === undefined) throw new AppError("not_found");
    requireInProject(request.principal, "compute.allocation.release", allocation.projectId);
    await release(tx, deps, allocation, { actor: request.principal.id, requestId: request.requestId });
    return allocation;
  });
  deps.wake.wake(nodeTopic(touched.nodeId));
  deps.wake.wake(operationTopic(touched.operationId));
  return await getAllocationOperation(deps.sql, request.allocationId);
}

/**
 * Stops the building of a slice, while that operation builds it: a slice that has become active meanwhile is not given back.
 * Asking again is fine.
 */
export async function cancelProvision(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  request: ReleaseRequest & { readonly operationId: string },
): Promise<void> {
  const { operationId } = request;
  const touched = await inTransaction(deps.sql, async (tx) => {
    await holdTasksAbout(tx, request.allocationId);
    const allocation = await lockAllocation(tx, request.allocationId);
    if (allocation === undefined) throw new AppError("not_found");
    requireInProject(request.principal, "compute.allocation.release", allocation.projectId);
    if (allocation.operationId === operationId && allocation.state === "releasing") return allocation;
    const isBuilding = allocation.state === "requested" || allocation.state === "provisioning";
    if (!isBuilding || allocation.operationId !== operationId)
      throw new AppError("operation_state_conflict", {
        detail: `The slice is ${allocation.state} by now; release it instead.`,
      });
    await cancelProvisioning(tx, deps, allocation, { actor: request.principal.id, requestId: request.requestId });
    return allocation;
  });
  deps.wake.wake(nodeTopic(touched.nodeId));
  deps.wake.wake(operationTopic(operationId));
}

/**
 * Gives a slice back because its host is emptied, unless that was called off or somebody gives it back already. May run twice.
 */
export async function releaseForDrain(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  drain: { readonly allocationId: string; readonly actor: string },
): Promise<void> {
  const touched = await inTransaction(deps.sql, async (tx) => {
    await holdTasksAbout(tx, drain.allocationId);
    const allocation = await lockAllocation(tx, drain.allocationId);
    if (allocation === undefined || allocation.state === "release_failed") return null;
    if (!(await isDrainDue(tx, allocation.nodeId))) return null;
    await release(tx, deps, allocation, { actor: drain.actor, requestId: null });
    return allocation;
  });
  if (touched === null) return;
  deps.wake.wake(nodeTopic(touched.nodeId));
  deps.wake.wake(operationTopic(touched.operationId));
}

interface By {
  readonly actor: string;
  readonly requestId: string | null;
}

async function release(tx: Tx, deps: Pick<Deps, "clock">, allocation: AllocationRow, by: By): Promise<void> {
  if (allocation.state === "active" || allocation.state === "release_failed")
    await beginRelease(tx, deps, allocation, by);
  else if (allocation.state === "requested" || allocation.state === "provisioning")
    await cancelProvisioning(tx, deps, allocation, by);
}

async function cancelProvisioning(tx: Tx, deps: Pick<Deps, "clock">, allocation: AllocationRow, by: By): Promise<void> {
  const move = {
    reason: "released before it was active",
    operationId: allocation.operationId,
    ...by,
  };
  const releasing = { allocation, move: { ...move, target: "releasing" } } as const;
  const cancelled = await cancelOperationTask(tx, allocation.operationId);
  if (cancelled !== "never held") return await moveAllAndRecord(tx, deps, [releasing]);
  // No host ever held the task, so there is nothing to undo.
  await advanceOperation(tx, allocation.operationId, "cancelled");
  await freeSlotsOf(tx, [{ id: allocation.id, quarantineReason: null }]);
  await giveCapacityBack(tx, [allocation]);
  await moveAllAndRecord(tx, deps, [releasing, { allocation, move: { ...move, target: "released" } }]);
}
