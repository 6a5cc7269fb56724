import type { Allocation, AllocationOperation } from "@hostler/shared/api/allocations.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { Queryable } from "../db/sql.ts";
import { requireInProject, type Permission, type Principal } from "../identity/permissions.ts";
import { getOperation } from "../operations/operations.ts";
import { findAllocation, readAllocationViews, type AllocationRow } from "./store.ts";

/** The allocation as the API shows it; `not_found` when there is none. */
export async function getAllocation(db: Queryable, id: string): Promise<Allocation> {
  const [allocation] = await readAllocationViews(db, { id, projectId: null, after: null, limit: 1 });
  if (allocation === undefined) throw new AppError("not_found");
  return allocation;
}

export async function getAllocationOperation(db: Queryable, id: string): Promise<AllocationOperation> {
  const allocation = await getAllocation(db, id);
  return { allocation, operation: await getOperation(db, allocation.operationId) };
}

/** The allocation's row for other features, after the check that the principal may do this to it. */
export async function requireAllocation(
  db: Queryable,
  request: { readonly id: string; readonly principal: Principal; readonly permission: Permission },
): Promise<AllocationRow> {
  const row = await findAllocation(db, request.id);
  if (row === undefined) throw new AppError("not_found");
  requireInProject(request.principal, request.permission, row.projectId);
  return row;
}
