import type { TaskState } from "@hostler/shared/states.ts";
import type { Tx } from "../db/sql.ts";
import { cancelTask } from "./store.ts";

/**
 * Cancels the task of an operation. A task that no node ever held is `cancelled` now; one that is held, or was, keeps its state
 * and its holder is told at its next poll or progress. Null when there is no live task.
 */
export async function cancelOperationTask(tx: Tx, operationId: string): Promise<TaskState | null> {
  return (await cancelTask(tx, operationId))?.state ?? null;
}
