import type { Tx } from "../db/sql.ts";
import { moveToHistory } from "./history-store.ts";
import { lockTasksAbout, requestCancel } from "./store.ts";

/**
 * Holds the tasks about some targets. Whoever changes a target and its tasks begins with this: results hold the tasks first too, and
 * two orders would wait for each other.
 */
export async function holdTasksAbout(tx: Tx, targetIds: readonly string[]): Promise<void> {
  await lockTasksAbout(tx, targetIds);
}

/**
 * Cancels the task of an operation. One that no node ever held is over now; one that is held, or was, stays until its holder has
 * undone it, who is told at its next poll or progress. Null when there is no live task.
 */
export async function cancelOperationTask(tx: Tx, operationId: string): Promise<"never held" | "asked to stop" | null> {
  const task = await requestCancel(tx, operationId);
  if (task === null) return null;
  if (task.state !== "ready" || task.attempt > 0) return "asked to stop";
  await moveToHistory(tx, [{ taskId: task.id, state: "cancelled", outcome: null, resultJws: null, deadReason: null }]);
  return "never held";
}
