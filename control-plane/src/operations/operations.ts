import type { Operation } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { OperationState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import {
  insertOperation,
  moveOperations,
  noteProgress,
  readOperation,
  type OperationError,
  type OperationMove,
  type OperationProgress,
} from "./store.ts";

export type { OperationMove };

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
  await moveOperations(tx, [{ id, target, error }]);
}

/** The same for several, of which no two are of one operation. */
export async function advanceOperations(tx: Tx, moves: readonly OperationMove[]): Promise<void> {
  if (moves.length > 0) await moveOperations(tx, moves);
}

export async function noteOperationsProgress(tx: Tx, reports: readonly OperationProgress[]): Promise<void> {
  await noteProgress(tx, reports);
}

/** Throws `not_found` when there is none; whether the caller may see it is the caller's to check. */
export async function getOperation(db: Queryable, id: string): Promise<Operation> {
  const operation = await readOperation(db, id);
  if (operation === undefined) throw new AppError("not_found");
  return operation;
}
