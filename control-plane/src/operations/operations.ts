import type { Operation } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { OperationState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import {
  deleteOperations,
  insertOperations,
  moveOperations,
  noteProgress,
  readOperation,
  readOperationsById,
  readOperations,
  updateOperationStep,
  type NewOperation,
  type OperationError,
  type OperationMove,
  type OperationStep,
} from "./store.ts";

export type { OperationMove, OperationStep };

/** Opens an operation for long work, in the transaction that asks for the work. */
export async function openOperation(tx: Tx, operation: NewOperation): Promise<void> {
  await insertOperations(tx, [operation]);
}

export async function openOperations(tx: Tx, operations: readonly NewOperation[]): Promise<void> {
  await insertOperations(tx, operations);
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

/** What was told of operations, oldest first. */
export async function noteOperationsProgress(tx: Tx, told: readonly OperationStep[]): Promise<void> {
  const steps = new Map<string, OperationStep>();
  for (const { id, phase, phasesDone } of told) {
    const before = steps.get(id);
    steps.set(id, {
      id,
      phase: phase ?? before?.phase ?? null,
      phasesDone: Math.max(phasesDone, before?.phasesDone ?? 0),
    });
  }
  if (steps.size > 0) await noteProgress(tx, [...steps.values()]);
}

/** The same for work whose steps are counted by whoever does them. */
export async function noteOperationStep(
  tx: Tx,
  id: string,
  at: Parameters<typeof updateOperationStep>[2],
): Promise<void> {
  await updateOperationStep(tx, id, at);
}

/** A page of a project's operations, or of the system's; whether the caller may see them is the caller's to check. */
export async function listOperations(db: Queryable, page: Parameters<typeof readOperations>[1]): Promise<Operation[]> {
  return await readOperations(db, page);
}

/** Throws `not_found` when there is none; whether the caller may see it is the caller's to check. */
export async function getOperation(db: Queryable, id: string): Promise<Operation> {
  const operation = await readOperation(db, id);
  if (operation === undefined) throw new AppError("not_found");
  return operation;
}

/** Those of them that there are, by id. */
export async function getOperations(db: Queryable, ids: readonly string[]): Promise<ReadonlyMap<string, Operation>> {
  return new Map((await readOperationsById(db, ids)).map((operation) => [operation.id, operation]));
}

/** Forgets operations of the system that ended long ago; which, is decided by whoever ran them. */
export async function forgetOperations(db: Queryable, ids: readonly string[]): Promise<void> {
  await deleteOperations(db, ids);
}
