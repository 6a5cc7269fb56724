import type { Queryable } from "../db/sql.ts";
import type { TaskKind } from "@hostler/shared/tasks.ts";
import { readPhaseEvents, type StoredPhaseEvent } from "./history-store.ts";

/** Everything that the host told about an operation's task, oldest first. */
export async function readOperationEvents(
  db: Queryable,
  operationId: string,
): Promise<{ readonly kind: TaskKind | null; readonly events: readonly StoredPhaseEvent[] }> {
  return await readPhaseEvents(db, operationId);
}
