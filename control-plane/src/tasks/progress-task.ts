import type { Outcome } from "@hostler/shared/coalesce.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { LEASE_TTL_MS } from "@hostler/shared/node-protocol.ts";
import type { PhaseEvent } from "@hostler/shared/tasks.ts";
import { applyTaskProgress } from "../allocations/apply-task-progress.ts";
import { operationTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { insertPhaseReports } from "./history-store.ts";
import { findTasks, noteProgress, type TaskRow } from "./store.ts";

export interface TaskProgress {
  readonly nodeId: string;
  readonly taskId: string;
  readonly fence: string;
  readonly events: readonly PhaseEvent[];
  readonly requestId: string;
}

export interface ProgressTaken {
  readonly leaseTtlMs: number;
  readonly cancel: boolean;
}

/**
 * Takes what happened on hosts and renews their leases, in one transaction. A report that comes twice is harmless. Each answer is
 * its own: who no longer holds the task gets `lease_stale`.
 */
export async function progressTasks(
  deps: Pick<Deps, "sql" | "clock" | "wake" | "leaseTtlMs">,
  reports: readonly TaskProgress[],
): Promise<Outcome<ProgressTaken>[]> {
  const { leaseTtlMs = LEASE_TTL_MS } = deps;
  const notes = [...latestOf(reports).values()].map(({ taskId, nodeId, fence, events }) => ({
    taskId,
    nodeId,
    fence,
    phase: events.at(-1)?.phase ?? null,
  }));
  const held = await inTransaction(deps.sql, async (tx) => {
    const rows = new Map((await noteProgress(tx, notes, leaseTtlMs)).map((task) => [task.id, task]));
    const taken = reports.flatMap((report) => {
      const task = rows.get(report.taskId);
      return task !== undefined && isHeldBy(task, report) ? [{ task, ...report }] : [];
    });
    await insertPhaseReports(
      tx,
      taken.map(({ task, events }) => ({ taskId: task.id, attempt: task.attempt, events })),
    );
    await applyTaskProgress(tx, deps, taken);
    return rows;
  });
  for (const { operationId } of held.values()) if (operationId !== null) deps.wake.wake(operationTopic(operationId));
  const missed = reports.map(({ taskId }) => taskId).filter((taskId) => !held.has(taskId));
  const others = missed.length === 0 ? [] : await findTasks(deps.sql, missed);
  return reports.map((report) => {
    const task = held.get(report.taskId) ?? others.find(({ id }) => id === report.taskId);
    if (task === undefined || !isHeldBy(task, report)) return { error: staleError(task, report) };
    return { value: { leaseTtlMs, cancel: task.cancelRequested } };
  });
}

/** A statement names each row once: of several reports of one holder the newest says the phase. */
function latestOf(reports: readonly TaskProgress[]): Map<string, TaskProgress> {
  const latest = new Map<string, TaskProgress>();
  for (const report of reports) {
    const before = latest.get(`${report.taskId} ${report.fence}`);
    if (before === undefined || report.events.length > 0) latest.set(`${report.taskId} ${report.fence}`, report);
  }
  return latest;
}

export function isHeldBy(task: TaskRow, holder: { readonly nodeId: string; readonly fence: string }): boolean {
  return task.nodeId === holder.nodeId && task.state === "leased" && task.fence === holder.fence;
}

/** Why the holder holds it no more. A task of another node is as unknown as one that is not there. */
export function staleError(task: TaskRow | undefined, holder: { readonly nodeId: string }): AppError {
  if (task === undefined || task.nodeId !== holder.nodeId)
    return new AppError("lease_stale", { detail: "This node has no such task in hand." });
  const detail = `The task is ${task.state}${task.state === "leased" ? " under a higher fence" : ""}.`;
  return new AppError("lease_stale", { detail });
}
