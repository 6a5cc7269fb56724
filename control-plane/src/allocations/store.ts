import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { ALLOCATION_TRANSITIONS, sourcesOf, type AllocationState } from "@hostler/shared/states.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export interface NewAllocation {
  readonly id: string;
  readonly projectId: string;
  readonly name: string;
  readonly nodeId: string;
  readonly driver: "qemu" | "mock";
  readonly imageId: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskGib: number;
  readonly gpus: Allocation["gpus"];
  readonly gpusSimulated: boolean;
  readonly labels: Readonly<Record<string, string>>;
  readonly nodeSelector: Readonly<Record<string, string>>;
  readonly spreadBy: string | null;
  /** The gang that it was made with; null when it was made alone. */
  readonly groupId: string | null;
  readonly operationId: string;
  /** What it is made of, as its first task says it. */
  readonly spec: SliceSpec;
}

export async function insertAllocation(tx: Tx, allocation: NewAllocation): Promise<void> {
  await tx`
    insert into allocations (id, project_id, name, state, node_id, driver, image_id, vcpus, memory_mib, disk_gib, gpus, gpus_simulated, labels,
      node_selector, spread_by, group_id, operation_id, spec)
    values (${allocation.id}, ${allocation.projectId}, ${allocation.name}, 'requested', ${allocation.nodeId}, ${allocation.driver}, ${allocation.imageId},
      ${allocation.vcpus}, ${allocation.memoryMib}, ${allocation.diskGib}, ${tx.json(allocation.gpus)}, ${allocation.gpusSimulated},
      ${tx.json(allocation.labels)}, ${tx.json(allocation.nodeSelector)}, ${allocation.spreadBy}, ${allocation.groupId}, ${allocation.operationId},
      ${JSON.stringify(allocation.spec)})
  `;
}

export interface AllocationRow {
  readonly id: string;
  readonly projectId: string;
  readonly name: string;
  readonly state: AllocationState;
  readonly version: number;
  readonly generation: number;
  readonly nodeId: string;
  readonly driver: "qemu" | "mock";
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly operationId: string;
  readonly gpus: Allocation["gpus"];
}

export async function lockAllocation(tx: Tx, id: string): Promise<AllocationRow | undefined> {
  const [row] = await tx<AllocationRow[]>`
    select id, project_id as "projectId", name, state, version, generation, node_id as "nodeId", driver, vcpus, memory_mib as "memoryMib",
      operation_id as "operationId", gpus
    from allocations
    where id = ${id}
    for update
  `;
  return row;
}

export async function findAllocation(db: Queryable, id: string): Promise<AllocationRow | undefined> {
  const [row] = await db<AllocationRow[]>`
    select id, project_id as "projectId", name, state, version, generation, node_id as "nodeId", driver, vcpus, memory_mib as "memoryMib",
      operation_id as "operationId", gpus
    from allocations
    where id = ${id}
  `;
  return row;
}

/** Moves an allocation where the table of transitions allows it. Resolves with the new version; undefined when it does not. */
export async function moveAllocation(
  tx: Tx,
  move: {
    readonly id: string;
    readonly target: AllocationState;
    readonly reason: string | null;
    readonly operationId: string;
  },
): Promise<number | undefined> {
  const [row] = await tx<{ version: number }[]>`
    update allocations
    set state = ${move.target}, version = version + 1, reason = ${move.reason}, operation_id = ${move.operationId},
      active_at = case when ${move.target} = 'active' then now() else active_at end,
      ended_at = case when ${move.target} in ('released', 'failed') then now() else ended_at end,
      spec = case when ${move.target} in ('released', 'failed') then null else spec end
    where id = ${move.id} and state in ${tx(sourcesOf(ALLOCATION_TRANSITIONS, move.target))}
    returning version
  `;
  return row?.version;
}

/** Points the allocation at another operation without a change of state. */
export async function setOperation(tx: Tx, id: string, operationId: string): Promise<void> {
  await tx`update allocations set operation_id = ${operationId} where id = ${id}`;
}

export async function giveCapacityBack(
  tx: Tx,
  give: { readonly nodeId: string; readonly vcpus: number; readonly memoryMib: number },
): Promise<void> {
  await tx`
    update nodes
    set vcpus_used = vcpus_used - ${give.vcpus}, memory_mib_used = memory_mib_used - ${give.memoryMib}
    where id = ${give.nodeId}
  `;
}

/** Whether the node is being emptied and the notice to its tenants has run out. */
export async function isDrainDue(tx: Tx, nodeId: string): Promise<boolean> {
  const rows = await tx`select from nodes where id = ${nodeId} and state = 'draining' and drain_stops_at <= now()`;
  return rows.length === 1;
}

export async function ownSlots(
  tx: Tx,
  slots: { readonly nodeId: string; readonly uuids: readonly string[]; readonly allocationId: string },
): Promise<number> {
  const rows = await tx`
    update gpu_slots
    set state = 'owned', allocation_id = ${slots.allocationId}, reason = null
    where node_id = ${slots.nodeId} and gpu_uuid = any(${[...slots.uuids]}) and state = 'available'
    returning gpu_uuid
  `;
  return rows.length;
}

/** Frees what the allocation owns; with a reason the slots are quarantined instead of handed out again. */
export async function freeSlots(tx: Tx, allocationId: string, quarantineReason: string | null): Promise<void> {
  await tx`
    update gpu_slots
    set state = case when ${quarantineReason}::text is null and coalesce(reason, '') not like 'gpu: %' then 'available' else 'quarantined' end,
      allocation_id = null, reason = coalesce(${quarantineReason}, reason)
    where allocation_id = ${allocationId}
  `;
}

interface AllocationViewRow extends Omit<Allocation, "createdAt" | "activeAt" | "endedAt" | "stopsAt"> {
  readonly stopsAt: Date | null;
  readonly createdAt: Date;
  readonly activeAt: Date | null;
  readonly endedAt: Date | null;
}

export async function readAllocationViews(
  db: Queryable,
  filter: {
    readonly id: string | null;
    readonly projectId: string | null;
    readonly after: string | null;
    readonly limit: number;
  },
): Promise<Allocation[]> {
  const rows = await db<AllocationViewRow[]>`
    select a.id, a.project_id as "projectId", a.name, a.state, a.reason, a.node_id as "nodeId", n.name as "nodeName", i.name as image, a.vcpus,
      a.memory_mib as "memoryMib", a.disk_gib as "diskGib", a.gpus, a.gpus_simulated as "gpusSimulated", a.labels, a.node_selector as "nodeSelector", a.spread_by as "spreadBy",
      a.group_id as "groupId", case when n.state = 'draining' and a.state in ('requested', 'provisioning', 'active') then n.drain_stops_at end as "stopsAt",
      a.operation_id as "operationId",
      a.created_at as "createdAt", a.active_at as "activeAt", a.ended_at as "endedAt"
    from allocations a
    join images i on i.id = a.image_id
    left join nodes n on n.id = a.node_id
    where (${filter.id}::text is null or a.id = ${filter.id}) and (${filter.projectId}::text is null or a.project_id = ${filter.projectId})
      and (${filter.after}::text is null or a.id < ${filter.after})
    order by a.id desc
    limit ${filter.limit}
  `;
  return rows.map((row) => ({
    ...row,
    createdAt: row.createdAt.toISOString(),
    activeAt: row.activeAt?.toISOString() ?? null,
    stopsAt: row.stopsAt?.toISOString() ?? null,
    endedAt: row.endedAt?.toISOString() ?? null,
  }));
}
