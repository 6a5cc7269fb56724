import type { Allocation, AllocationOperation } from "@hostler/shared/api/allocations.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { Queryable } from "../db/sql.ts";
import { requireInProject, type Permission, type Principal } from "../identity/permissions.ts";
import { getOperations } from "../operations/operations.ts";
import { findAllocation, readAllocationViews, type AllocationRow } from "./store.ts";

/** The allocation as the API shows it; `not_found` when there is none. */
export async function getAllocation(db: Queryable, id: string): Promise<Allocation> {
  const [allocation] = await readAllocationViews(db, { ids: [id], projectId: null, after: null, limit: 1 });
  if (allocation === undefined) throw new AppError("not_found");
  return allocation;
}

/** Those of them that there are, in the order of the ids. */
export async function getAllocationOperations(db: Queryable, ids: readonly string[]): Promise<AllocationOperation[]> {
  const views = await readAllocationViews(db, { ids, projectId: null, after: null, limit: ids.length });
  const allocations = new Map(views.map((allocation) => [allocation.id, allocation]));
  const operations = await getOperations(
    db,
    views.map((allocation) => allocation.operationId),
  );
  return ids.flatMap((id) => {
    const allocation = allocations.get(id);
    const operation = operations.get(allocation?.operationId ?? "");
    return allocation === undefined || operation === undefined ? [] : [{ allocation, operation }];
  });
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
