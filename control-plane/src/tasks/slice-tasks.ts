import type { Queryable } from "../db/sql.ts";
import { readSliceTasks, type SliceTasks } from "./slice-task-store.ts";

export type { SliceTasks };

/** Tasks of slices on a node, by allocation. Read it after the allocations: then nothing that changed in between is missed. */
export async function sliceTasksOf(
  db: Queryable,
  filter: { readonly nodeId: string; readonly allocationIds: readonly string[] },
): Promise<ReadonlyMap<string, SliceTasks>> {
  return new Map((await readSliceTasks(db, filter)).map((tasks) => [tasks.allocationId, tasks]));
}
