import { AppError } from "@hostler/shared/errors.ts";
import { LEASE_TTL_MS } from "@hostler/shared/node-protocol.ts";
import type { PhaseEvent } from "@hostler/shared/tasks.ts";
import { applyTaskProgress } from "../allocations/apply-task-progress.ts";
import { operationTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { extendLease, insertPhaseEvents, lockTask, type TaskRow } from "./store.ts";

/**
 * Takes what happened on the host and renews the lease. Events that are there already are ignored, so a repeated request is
 * safe. Throws `lease_stale` when another grant owns the task.
 */
export async function progressTask(
  deps: Pick<Deps, "sql" | "clock" | "wake" | "leaseTtlMs">,
  progress: {
    readonly nodeId: string;
    readonly taskId: string;
    readonly fence: string;
    readonly events: readonly PhaseEvent[];
    readonly requestId: string;
  },
): Promise<{ readonly leaseTtlMs: number; readonly cancel: boolean }> {
  const { leaseTtlMs = LEASE_TTL_MS } = deps;
  const task = await inTransaction(deps.sql, async (tx) => {
    const row = requireHeld(await lockTask(tx, progress.taskId), progress);
    await extendLease(tx, row.id, leaseTtlMs);
    await insertPhaseEvents(tx, row, progress.events);
    await applyTaskProgress(tx, deps, { task: row, requestId: progress.requestId });
    return row;
  });
  if (task.operationId !== null) deps.wake.wake(operationTopic(task.operationId));
  return { leaseTtlMs, cancel: task.cancelRequested };
}

/** The task, when this node holds it under this fence. */
export function requireHeld(
  task: TaskRow | undefined,
  holder: { readonly nodeId: string; readonly fence: string },
): TaskRow {
  if (task === undefined || task.nodeId !== holder.nodeId)
    throw new AppError("lease_stale", { detail: "This node has no such task." });
  if (task.state !== "leased" || task.fence !== holder.fence) {
    throw new AppError("lease_stale", {
      detail: `The task is ${task.state}${task.state === "leased" ? " under a higher fence" : ""}.`,
    });
  }
  return task;
}
