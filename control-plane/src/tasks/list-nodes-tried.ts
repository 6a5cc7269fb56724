import type { Queryable } from "../db/sql.ts";
import { listTriedNodes } from "./history-store.ts";

/** The nodes that an operation's tasks were for, ended or not. */
export async function listNodesTried(db: Queryable, operationId: string): Promise<string[]> {
  return await listTriedNodes(db, operationId);
}
