import type { ResultClaims } from "@hostler/shared/tasks.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { advanceOperation, noteOperationProgress } from "../operations/operations.ts";
import type { TaskRow } from "../tasks/task-row.ts";
import { beginRelease } from "./begin-release.ts";
import { endRepair } from "./repair-allocation.ts";
import { moveAndRecord } from "./record-allocation.ts";
import { freeSlots, giveCapacityBack, lockAllocation, type AllocationRow } from "./store.ts";

interface Applied {
  readonly task: TaskRow;
  readonly requestId: string | null;
}

/** What the end of a task means for its operation and allocation, in the transaction that ends the task. */
export async function applyTaskResult(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  applied: Applied & { readonly result: ResultClaims },
): Promise<void> {
  const { task, result } = applied;
  if (task.operationId === null) return;
  await noteOperationProgress(tx, task.operationId, task.id);
  const failure = result.failure;
  const error = failure === null ? null : { code: failure.code, message: failure.message, phase: failure.phase };
  await advanceOperation(tx, task.operationId, result.outcome, result.outcome === "failed" ? error : null);
  const allocation = await lockAllocation(tx, task.targetId);
  if (allocation === undefined) return;
  if (task.kind === "slice.vm_provision") await endProvision(tx, deps, { ...applied, allocation });
  else if (task.kind === "slice.vm_release") await endRelease(tx, deps, { ...applied, allocation });
  else if (task.kind === "slice.vm_repair") await endRepair(tx, deps, { task, allocation, outcome: result.outcome });
}

/** A task goes back to its node for another attempt. */
export async function applyTaskRetry(tx: Tx, _deps: Pick<Deps, "clock">, applied: Applied): Promise<void> {
  if (applied.task.operationId !== null) await advanceOperation(tx, applied.task.operationId, "retrying");
}

/**
 * A task ends although no host said so: it was never picked up, or never finished. What a host may still hold of the slice is
 * unknown, so its GPUs are quarantined unless no host ever began.
 */
export async function applyTaskAbandoned(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  applied: { readonly task: TaskRow; readonly reason: string },
): Promise<void> {
  const { task, reason } = applied;
  if (task.operationId === null) return;
  await advanceOperation(tx, task.operationId, "failed", { code: "lease_lost", message: reason, phase: null });
  // What was not removed is seen again in the next list of its host.
  if (task.kind === "slice.remove") return;
  const allocation = await lockAllocation(tx, task.targetId);
  if (allocation === undefined) return;
  if (task.kind === "slice.vm_repair") return await endRepair(tx, deps, { task, allocation, outcome: "failed" });
  const move = { reason, operationId: task.operationId, actor: "system:tasks", requestId: null };
  if (task.kind === "slice.vm_release") {
    await moveAndRecord(tx, deps, allocation, { ...move, target: "release_failed" });
    return;
  }
  await freeSlots(tx, allocation.id, task.attempt === 0 ? null : `release: ${reason}`);
  await giveCapacityBack(tx, allocation);
  await moveAndRecord(tx, deps, allocation, {
    ...move,
    target: allocation.state === "releasing" ? "released" : "failed",
  });
}

type Ended = Applied & { readonly result: ResultClaims; readonly allocation: AllocationRow };

async function endProvision(tx: Tx, deps: Pick<Deps, "clock">, ended: Ended): Promise<void> {
  const { task, result, allocation } = ended;
  const move = {
    operationId: task.operationId ?? allocation.operationId,
    actor: `node:${task.nodeId}`,
    requestId: ended.requestId,
  };
  if (result.outcome === "succeeded") {
    // The tenant gave it back while the host finished it: it goes down again at once.
    if (allocation.state === "releasing") return await beginRelease(tx, deps, allocation, move);
    // A host may be done before it told of any progress.
    if (allocation.state === "requested")
      await moveAndRecord(tx, deps, allocation, { ...move, target: "provisioning", reason: null });
    return await moveAndRecord(
      tx,
      deps,
      { ...allocation, state: "provisioning" },
      { ...move, target: "active", reason: null },
    );
  }
  await freeSlots(tx, allocation.id, quarantineReason(result));
  await giveCapacityBack(tx, allocation);
  const target = allocation.state === "releasing" ? "released" : "failed";
  await moveAndRecord(tx, deps, allocation, { ...move, target, reason: result.failure?.message ?? "cancelled" });
}

async function endRelease(tx: Tx, deps: Pick<Deps, "clock">, ended: Ended): Promise<void> {
  const { task, result, allocation } = ended;
  const move = {
    operationId: task.operationId ?? allocation.operationId,
    actor: `node:${task.nodeId}`,
    requestId: ended.requestId,
  };
  if (result.outcome !== "succeeded") {
    // Its slots stay owned: nobody else gets them until a release proves that they are clean.
    await moveAndRecord(tx, deps, allocation, {
      ...move,
      target: "release_failed",
      reason: result.failure?.message ?? "cancelled",
    });
    return;
  }
  await freeSlots(tx, allocation.id, null);
  await giveCapacityBack(tx, allocation);
  await moveAndRecord(tx, deps, allocation, { ...move, target: "released", reason: null });
}

/** Why the slots may not be handed out again; null when the host is clean. */
function quarantineReason(result: ResultClaims): string | null {
  const failure = result.failure;
  if (failure === null) return null;
  if (failure.class === "device") return `release: ${failure.message}`.slice(0, 500);
  return failure.leftovers.length > 0
    ? `release: the host could not undo ${failure.leftovers.join(", ")}`.slice(0, 500)
    : null;
}
