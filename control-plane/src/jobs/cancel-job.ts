import type { Tx } from "../db/sql.ts";
import { advanceOperation } from "../operations/operations.ts";
import { requestJobCancel } from "./store.ts";

/**
 * Cancels a job: one that waits is cancelled now, the replica that runs one is told and stops at its next chance. False when it
 * is over. After the commit the caller calls `wakeForJob`, which is how a running one hears of it at once.
 */
export async function cancelJob(tx: Tx, operationId: string): Promise<boolean> {
  const state = await requestJobCancel(tx, operationId);
  if (state === "cancelled") await advanceOperation(tx, operationId, "cancelled");
  return state !== undefined;
}
