import type { Operation } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { OperationState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import {
  insertOperation,
  moveOperation,
  readOperation,
  updateOperationProgress,
  type OperationError,
} from "./store.ts";

/** Opens an operation for long work, in the transaction that asks for the work. */
export async function openOperation(tx: Tx, operation: Parameters<typeof insertOperation>[1]): Promise<void> {
  await insertOperation(tx, operation);
}

/** Moves an operation; the table of transitions decides, a repeated or late move changes nothing. */
export async function advanceOperation(
  tx: Tx,
  id: string,
  target: OperationState,
  error: OperationError | null = null,
): Promise<void> {
  await moveOperation(tx, id, target, error);
}

export async function noteOperationProgress(tx: Tx, operationId: string, taskId: string): Promise<void> {
  await updateOperationProgress(tx, operationId, taskId);
}

/** Throws `not_found` when there is none; whether the caller may see it is the caller's to check. */
export async function getOperation(db: Queryable, id: string): Promise<Operation> {
  const operation = await readOperation(db, id);
  if (operation === undefined) throw new AppError("not_found");
  return operation;
}
