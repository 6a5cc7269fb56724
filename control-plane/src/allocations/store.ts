import type { Allocation } from "@hostler/shared/api/allocations.ts";
import type { AllocationState, SlotState } from "@hostler/shared/states.ts";
import type { DriverName, SliceSpec } from "@hostler/shared/tasks.ts";
import { idSet, type Queryable, type Tx } from "../db/sql.ts";
import { unhosted, type PortViews } from "./ports.ts";
import type { MovedAllocation } from "./record-allocation.ts";

export interface NewAllocation {
  readonly id: string;
  readonly projectId: string;
  readonly name: string;
  readonly nodeId: string;
  readonly driver: DriverName;
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
  readonly ports: PortViews;
  readonly bandwidthMbitPerSecond: number | null;
}

export async function insertAllocations(tx: Tx, allocations: readonly NewAllocation[]): Promise<void> {
  await tx`
    insert into allocations (id, project_id, name, state, node_id, driver, image_id, vcpus, memory_mib, disk_gib, gpus, gpus_simulated, labels,
      node_selector, spread_by, group_id, operation_id, spec, ports, bandwidth_mbit_per_second)
    select id, "projectId", name, 'requested', "nodeId", driver, "imageId", vcpus, "memoryMib", "diskGib", gpus, "gpusSimulated", labels,
      "nodeSelector", "spreadBy", "groupId", "operationId", spec, ports, "bandwidthMbitPerSecond"
    from jsonb_to_recordset(${tx.json(allocations as never)}) as given (id text, "projectId" text, name text, "nodeId" text, driver text,
      "imageId" text, vcpus int, "memoryMib" int, "diskGib" int, gpus jsonb, "gpusSimulated" boolean, labels jsonb, "nodeSelector" jsonb,
      "spreadBy" text, "groupId" text, "operationId" text, spec text, ports jsonb, "bandwidthMbitPerSecond" int)
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
  readonly driver: DriverName;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly operationId: string;
  readonly gpus: Allocation["gpus"];
  readonly nodeSelector: Readonly<Record<string, string>>;
  readonly spreadBy: string | null;
  readonly labels: Readonly<Record<string, string>>;
  readonly ports: PortViews;
}

export async function lockAllocation(tx: Tx, id: string): Promise<AllocationRow | undefined> {
  const [row] = await lockAllocations(tx, [id]);
  return row;
}

/** Holds the rows, in the order of their ids, so that two batches never wait for each other. */
export async function lockAllocations(tx: Tx, ids: readonly string[]): Promise<AllocationRow[]> {
  return await tx<AllocationRow[]>`
    select ${rowColumns(tx)}
    from allocations
    where id = any(${[...ids]})
    order by id
    for update
  `;
}

/** Those of them that no host has begun yet. */
export async function lockRequestedAllocations(tx: Tx, ids: readonly string[]): Promise<AllocationRow[]> {
  return await tx<AllocationRow[]>`
    select ${rowColumns(tx)}
    from allocations
    where id = any(${[...ids]}) and state = 'requested'
    order by id
    for update
  `;
}

function rowColumns(db: Queryable) {
  return db`id, project_id as "projectId", name, state, version, generation, node_id as "nodeId", driver, vcpus, memory_mib as "memoryMib",
    operation_id as "operationId", gpus, node_selector as "nodeSelector", spread_by as "spreadBy", labels, ports`;
}

export async function findAllocation(db: Queryable, id: string): Promise<AllocationRow | undefined> {
  const [row] = await db<AllocationRow[]>`
    select ${rowColumns(db)}
    from allocations
    where id = ${id}
  `;
  return row;
}

/** The slices that were asked for together, in the order in which they were asked for. */
export async function listGroup(
  db: Queryable,
  groupId: string,
): Promise<{ readonly id: string; readonly projectId: string }[]> {
  return await db<{ id: string; projectId: string }[]>`
    select id, project_id as "projectId" from allocations where group_id = ${groupId} order by id
  `;
}

/** Moves allocations whose rows the caller holds, each out of the state that it was seen in. Resolves with how many moved. */
export async function moveAllocations(tx: Tx, moves: readonly MovedAllocation[]): Promise<number> {
  const rows = await tx`
    update allocations a
    set state = move.target, version = version + 1, reason = move.reason, operation_id = move."operationId",
      active_at = case when move.target = 'active' then now() else active_at end,
      ended_at = case when move.target in ('released', 'failed') then now() else ended_at end,
      spec = case when move.target in ('released', 'failed') then null else spec end, ports = coalesce(move.ports, a.ports)
    from jsonb_to_recordset(${tx.json(moves as never)}) as move (id text, source text, target text, reason text, "operationId" text, ports jsonb)
    where a.id = move.id and a.state = move.source
    returning a.id
  `;
  return rows.length;
}

/** Where a slice's ports are reached, when that changed while it was active. */
export async function setPorts(tx: Tx, id: string, ports: PortViews): Promise<void> {
  await tx`update allocations set ports = ${tx.json(ports)} where id = ${id}`;
}

/** Points the allocation at another operation without a change of state. */
export async function setOperation(tx: Tx, id: string, operationId: string): Promise<void> {
  await tx`update allocations set operation_id = ${operationId} where id = ${id}`;
}

/** The capacity that allocations held, in the order of their nodes. */
export async function giveCapacityBack(
  tx: Tx,
  given: readonly { readonly nodeId: string; readonly vcpus: number; readonly memoryMib: number }[],
): Promise<void> {
  await tx`
    with given as (
      select "nodeId", sum(vcpus) as vcpus, sum("memoryMib") as memory_mib
      from jsonb_to_recordset(${tx.json(given)}) as given ("nodeId" text, vcpus int, "memoryMib" int)
      group by "nodeId"
    ), held as (
      select u.node_id, given.vcpus, given.memory_mib
      from node_usage u
      join given on given."nodeId" = u.node_id
      order by u.node_id
      for no key update of u
    )
    update node_usage u
    set vcpus = u.vcpus - held.vcpus, memory_mib = u.memory_mib - held.memory_mib
    from held
    where u.node_id = held.node_id
  `;
}

/** Whether the node is being emptied and the notice to its tenants has run out. */
export async function isDrainDue(tx: Tx, nodeId: string): Promise<boolean> {
  const rows = await tx`select from nodes where id = ${nodeId} and state = 'draining' and drain_stops_at <= now()`;
  return rows.length === 1;
}

export interface OwnedSlots {
  readonly nodeId: string;
  readonly uuids: readonly string[];
  readonly allocationId: string;
}

/** Throws when one of them is not free: the caller holds their locks. */
export async function ownSlots(tx: Tx, owned: readonly OwnedSlots[]): Promise<void> {
  const slots = owned.flatMap(({ nodeId, uuids, allocationId }) =>
    uuids.map((uuid) => ({ nodeId, uuid, allocationId })),
  );
  if (slots.length === 0) return;
  const rows = await tx`
    update gpu_slots s
    set state = 'owned', allocation_id = slot."allocationId", reason = null
    from jsonb_to_recordset(${tx.json(slots)}) as slot ("nodeId" text, uuid text, "allocationId" text)
    where s.node_id = slot."nodeId" and s.gpu_uuid = slot.uuid and s.state = 'available'
    returning s.gpu_uuid
  `;
  if (rows.length !== slots.length) throw new Error("a locked free slot was not free");
}

/** Slots that come back, and why some of them, or all, are quarantined instead of handed out again. */
export interface ReturnedSlots {
  /** For all of them. */
  readonly quarantineReason: string | null;
  /** By the UUID of the GPU. */
  readonly gaps: Readonly<Record<string, string>>;
}

export const CLEAN_SLOTS: ReturnedSlots = { quarantineReason: null, gaps: {} };

export type FreedSlots = ReturnedSlots & Pick<AllocationRow, "id" | "nodeId" | "gpus">;

/**
 * Frees what allocations own; with a reason, its own or that of all, a slot is quarantined instead of handed out again. A part
 * whose card is at fault is free all the same: the card keeps the fault. Resolves with the cards that are divided by it.
 */
export async function updateFreedSlots(
  tx: Tx,
  freed: readonly FreedSlots[],
): Promise<{ readonly nodeId: string; readonly cardUuid: string }[]> {
  const given = freed.map(({ id, nodeId, quarantineReason, gaps }) => ({ id, nodeId, quarantineReason, gaps }));
  const rows = await tx<{ nodeId: string; cardUuid: string; state: SlotState }[]>`
    update gpu_slots s
    set state = case
        when coalesce(freed."quarantineReason", freed.gaps ->> s.gpu_uuid) is not null then 'quarantined'
        when s.card_uuid is null and coalesce(s.reason, '') like 'gpu: %' then 'quarantined'
        else idle_slot_state(s.card_uuid, s.gpu)
      end,
      allocation_id = null, reason = coalesce(freed."quarantineReason", freed.gaps ->> s.gpu_uuid, s.reason)
    from jsonb_to_recordset(${tx.json(given)}) as freed (id text, "nodeId" text, "quarantineReason" text, gaps jsonb)
    where s.node_id = freed."nodeId" and s.allocation_id = freed.id
    returning s.node_id as "nodeId", s.gpu_uuid as "cardUuid", s.state
  `;
  return rows.filter((row) => row.state === "divided");
}

/** The slice is built anew on another node: a generation of its own, whose host objects have other names. */
export async function moveToNode(
  tx: Tx,
  move: {
    readonly id: string;
    readonly generation: number;
    readonly nodeId: string;
    readonly gpus: Allocation["gpus"];
    readonly gpusSimulated: boolean;
    readonly spec: SliceSpec;
  },
): Promise<number> {
  const [row] = await tx<{ version: number }[]>`
    update allocations
    set node_id = ${move.nodeId}, generation = ${move.generation}, gpus = ${tx.json(move.gpus)}, gpus_simulated = ${move.gpusSimulated},
      vcpus = ${move.spec.vcpus}, memory_mib = ${move.spec.memoryMib}, spec = ${JSON.stringify(move.spec)}, version = version + 1
    where id = ${move.id} and generation < ${move.generation} and state in ('requested', 'provisioning')
    returning version
  `;
  if (row === undefined) throw new Error(`allocation ${move.id} cannot move to another node`);
  return row.version;
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
    readonly ids: readonly string[] | null;
    readonly projectId: string | null;
    readonly after: string | null;
    readonly limit: number;
  },
): Promise<Allocation[]> {
  const { ids, projectId, after } = filter;
  const rows = await db<AllocationViewRow[]>`
    select a.id, a.project_id as "projectId", a.name, a.state, a.reason, a.node_id as "nodeId", n.name as "nodeName", i.name as image, a.vcpus,
      a.memory_mib as "memoryMib", a.disk_gib as "diskGib", a.gpus, a.gpus_simulated as "gpusSimulated", a.labels, a.ports, a.bandwidth_mbit_per_second as "bandwidthMbitPerSecond", a.node_selector as "nodeSelector", a.spread_by as "spreadBy",
      a.group_id as "groupId", case when n.state = 'draining' and a.state in ('requested', 'provisioning', 'active') then n.drain_stops_at end as "stopsAt",
      a.operation_id as "operationId",
      a.created_at as "createdAt", a.active_at as "activeAt", a.ended_at as "endedAt"
    from allocations a
    join images i on i.id = a.image_id
    left join nodes n on n.id = a.node_id
    where ${ids === null ? db`true` : db`a.id in ${idSet(db, ids)}`}
      and ${projectId === null ? db`true` : db`a.project_id = ${projectId}`}
      and ${after === null ? db`true` : db`a.id < ${after}`}
    order by a.id desc
    limit ${filter.limit}
  `;
  return rows.map((row) => ({
    ...row,
    ports: row.endedAt === null ? row.ports : unhosted(row.ports),
    createdAt: row.createdAt.toISOString(),
    activeAt: row.activeAt?.toISOString() ?? null,
    stopsAt: row.stopsAt?.toISOString() ?? null,
    endedAt: row.endedAt?.toISOString() ?? null,
  }));
}
