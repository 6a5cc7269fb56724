import type { DriverName } from "@hostler/shared/tasks.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { Queryable } from "../db/sql.ts";
import { findAllocation } from "./store.ts";

/** Where a terminal of the allocation is opened: its node and slice. Throws when the slice is not active any more. */
export async function findTerminalPlace(
  db: Queryable,
  allocationId: string,
): Promise<{
  readonly nodeId: string;
  readonly slice: { readonly allocationId: string; readonly generation: number; readonly driver: DriverName };
}> {
  const row = await findAllocation(db, allocationId);
  if (row?.state !== "active")
    throw new AppError("allocation_state_conflict", { detail: "The slice is not active any more." });
  return { nodeId: row.nodeId, slice: { allocationId: row.id, generation: row.generation, driver: row.driver } };
}
