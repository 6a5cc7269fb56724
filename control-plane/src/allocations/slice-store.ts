import type { DriverName } from "@hostler/shared/tasks.ts";
import type { AllocationState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";

/** An allocation as its host should show it. */
export interface PlacedSlice {
  readonly allocationId: string;
  readonly generation: number;
  readonly driver: DriverName;
  readonly state: AllocationState;
  readonly gpuUuids: readonly string[];
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskGib: number;
}

/** What lives on the node, and whatever else of the given ids was ever placed on it. */
export async function readPlacedSlices(
  db: Queryable,
  filter: { readonly nodeId: string; readonly allocationIds: readonly string[] },
): Promise<PlacedSlice[]> {
  return await db<PlacedSlice[]>`
    with placed as (
      select id from allocations where node_id = ${filter.nodeId} and ended_at is null
      union
      select id from allocations where id = any(${[...filter.allocationIds]}) and node_id = ${filter.nodeId}
    )
    select a.id as "allocationId", a.generation, a.driver, a.state, a.vcpus, a.memory_mib as "memoryMib", a.disk_gib as "diskGib",
      array(select gpu ->> 'uuid' from jsonb_array_elements(a.gpus) gpu) as "gpuUuids"
    from allocations a
    join placed on placed.id = a.id
    order by a.id
  `;
}

/** As JSON text; null for an allocation that has ended, or is older than specs are kept. */
export async function readSpec(tx: Tx, id: string): Promise<string | null> {
  const [row] = await tx<{ spec: string | null }[]>`select spec from allocations where id = ${id}`;
  return row?.spec ?? null;
}

/** Raises the version without a change of state, for an event about it; points it at the operation. */
export async function raiseVersion(tx: Tx, id: string, operationId: string): Promise<number> {
  const [row] = await tx<{ version: number }[]>`
    update allocations set version = version + 1, operation_id = ${operationId} where id = ${id} returning version
  `;
  if (row === undefined) throw new Error(`there is no allocation ${id}`);
  return row.version;
}
