import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import type { Candidate, PlacementWish } from "./choose-nodes.ts";

/** The nodes that might take a slice, fullest first, so that large holes stay large. Nothing is locked yet. */
export async function listCandidates(
  db: Queryable,
  request: { readonly projectId: string; readonly wish: PlacementWish },
): Promise<Candidate[]> {
  const { wish, projectId } = request;
  return await db<Candidate[]>`
    select n.id, n.name, n.state, n.labels,
      coalesce(l.last_seen_at > now() - interval '45 seconds', false) as "isOnline",
      n.drivers @> ${db.json([{ name: wish.driver, usable: true }])} as "isDriverUsable",
      n.vcpus_total - n.vcpus_used as "freeVcpus", n.memory_mib_total - n.memory_mib_used as "freeMemoryMib",
      coalesce(s.free, 0) as "freeGpus",
      case when ${wish.spreadBy}::text is not null then (
        select min(a.name) from allocations a
        where a.node_id = n.id and a.project_id = ${projectId} and a.spread_by = ${wish.spreadBy} and a.state not in ('released', 'failed')
      ) end as "spreadWith"
    from nodes n
    left join node_liveness l on l.node_id = n.id
    left join (
      select node_id, count(*)::int as free
      from gpu_slots
      where state = 'available' and (${wish.gpus.kind}::text is null or gpu_kind = ${wish.gpus.kind})
      group by node_id
    ) as s on s.node_id = n.id
    where n.state not in ('revoked', 'retired')
    order by "freeGpus", "freeMemoryMib", n.id
  `;
}

/**
 * Takes processors and memory of the node when they are still free and it still is what was asked for; holds its row until the
 * commit. Undefined when it does not do any more, or when another transaction holds it and the caller does not wait.
 */
export async function takeCapacity(
  tx: Tx,
  take: {
    readonly isWaiting: boolean;
    readonly nodeId: string;
    readonly vcpus: number;
    readonly memoryMib: number;
    readonly nodeSelector: Readonly<Record<string, string>>;
  },
): Promise<{ readonly gpusSimulated: boolean } | undefined> {
  const [row] = await tx<{ gpusSimulated: boolean }[]>`
    with held as (
      select id
      from nodes
      where id = ${take.nodeId} and state = 'ready' and labels @> ${tx.json(take.nodeSelector)}
        and vcpus_used + ${take.vcpus} <= vcpus_total and memory_mib_used + ${take.memoryMib} <= memory_mib_total
      for no key update ${take.isWaiting ? tx`` : tx`skip locked`}
    )
    update nodes n
    set vcpus_used = vcpus_used + ${take.vcpus}, memory_mib_used = memory_mib_used + ${take.memoryMib}
    from held
    where n.id = held.id
    returning gpus_simulated as "gpusSimulated"
  `;
  return row;
}

/** Whether a live slice of the group is on the node, whose row the caller holds. */
export async function findGroupMember(
  tx: Tx,
  group: { readonly nodeId: string; readonly projectId: string; readonly spreadBy: string },
): Promise<boolean> {
  const rows = await tx`
    select from allocations
    where node_id = ${group.nodeId} and project_id = ${group.projectId} and spread_by = ${group.spreadBy}
      and state not in ('released', 'failed')
    limit 1
  `;
  return rows.length > 0;
}

/** Locks that many free slots of the node; fewer rows mean that it has fewer. */
export async function lockFreeSlots(
  tx: Tx,
  wish: { readonly nodeId: string; readonly kind: string | null; readonly count: number },
): Promise<Gpu[]> {
  const rows = await tx<{ gpu: Gpu }[]>`
    select gpu
    from gpu_slots
    where node_id = ${wish.nodeId} and state = 'available' and (${wish.kind}::text is null or gpu_kind = ${wish.kind})
    order by (gpu ->> 'index')::int
    limit ${wish.count}
    for update skip locked
  `;
  return rows.map((row) => row.gpu);
}
