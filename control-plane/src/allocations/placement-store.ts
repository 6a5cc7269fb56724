import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import type { Candidate, PlacementWish } from "./choose-nodes.ts";

/** Which nodes are read: those of the ids, or the first so many that have room for a slice; all that there are with neither. */
export type Among = { readonly ids: readonly string[] } | { readonly fittingMax: number } | "all";

/**
 * The nodes that might take a slice, fullest first, so that large holes stay large. What it says of a node stays true only where the
 * caller holds its row.
 */
export async function listCandidates(
  db: Queryable,
  request: { readonly projectId: string; readonly wish: PlacementWish },
  among: Among,
): Promise<Candidate[]> {
  const { wish, projectId } = request;
  const driver = driverIn(db, wish);
  const fittingMax = among !== "all" && "fittingMax" in among ? among.fittingMax : null;
  const isAmong = (column: "node_id" | "n.id") =>
    among !== "all" && "ids" in among ? db`${db(column)} = any(${[...among.ids]})` : db`true`;
  // Filtered when it is joined: PostgreSQL takes so many conditions for one row, and joins each node with each slot then. JSON is looked
  // at last, and made only of what is answered.
  return await db<Candidate[]>`
    with joined as materialized (
      select n.id, n.name, n.state, n.labels, n.drivers, n.protocol_version as "protocolVersion",
        coalesce(l.last_seen_at > now() - interval '45 seconds', false) as "isOnline",
        n.vcpus_total - coalesce(u.vcpus, 0) as "freeVcpus", n.memory_mib_total - coalesce(u.memory_mib, 0) as "freeMemoryMib",
        coalesce(s.free, 0) + coalesce(m.free, 0) as "freeGpus",
        coalesce(u.vcpus, 0) = 0 and coalesce(u.memory_mib, 0) = 0 and not coalesce(c.taken, false) as "isEmpty",
        coalesce(c.total, 0) as total, coalesce(c.divided, 0) as divided, m.cards as "migCards"
      from nodes n
      left join node_liveness l on l.node_id = n.id
      -- These page by page: by an index, every version of a row that nobody could clean away would be fetched on its own.
      left join (select * from node_usage offset 0) as u on u.node_id = n.id
      left join (
        select node_id, count(*)::int as free
        from (
          select node_id
          from gpu_slots
          where state = 'available' and (${wish.gpus.kind}::text is null or gpu_kind = ${wish.gpus.kind})
            and ${isAmong("node_id")}
          offset 0
        ) as available
        group by node_id
      ) as s on s.node_id = n.id
      left join (
        select node_id, count(*) filter (where card_uuid is null)::int as total, bool_or(state = 'owned') as taken,
          count(*) filter (where state = 'divided')::int as divided
        from gpu_slots
        where ${wish.driver === "host"} and ${isAmong("node_id")}
        group by node_id
      ) as c on c.node_id = n.id
      left join (
        select node_id, sum(free)::int as free, count(*)::int as cards
        from mig_capacity
        where gpu_kind = ${wish.gpus.kind} and ${isAmong("node_id")}
        group by node_id
      ) as m on m.node_id = n.id
      where n.state not in ('revoked', 'retired') and ${isAmong("n.id")}
    ), chosen as materialized (
      select *
      from joined
      ${fittingMax === null ? db`` : fitting(db, wish)}
      order by "freeGpus", "freeMemoryMib", id
      limit ${fittingMax}
    )
    select id, name, state, labels, "isOnline", drivers @> ${driver} as "isDriverUsable", "protocolVersion", "freeVcpus", "freeMemoryMib",
      "freeGpus", "isEmpty", jsonb_build_object('total', total, 'divided', divided) as cards,
      case when "migCards" is not null then jsonb_build_object('cards', "migCards", 'largestFree', (
        select c.profile from mig_capacity c where c.node_id = chosen.id and c.free > 0 order by c.size desc, c.profile limit 1
      )) end as mig,
      case when ${wish.spreadBy}::text is not null then (
        select min(a.name) from allocations a
        where a.node_id = chosen.id and a.project_id = ${projectId} and a.spread_by = ${wish.spreadBy} and a.ended_at is null
      ) end as "spreadWith"
    from chosen
    order by "freeGpus", "freeMemoryMib", id
  `;
}

/** Those of the joined nodes that have room for one slice. */
function fitting(db: Queryable, wish: PlacementWish) {
  return db`
    where state = 'ready' and "isOnline" and "protocolVersion" >= ${wish.protocolVersion}
      and "freeVcpus" >= ${wish.vcpus} and "freeMemoryMib" >= ${wish.memoryMib} and "freeGpus" >= ${wish.gpus.count}
      and (${wish.driver !== "host"} or ("isEmpty" and total = ${wish.gpus.count} and divided = 0))
      and drivers @> ${driverIn(db, wish)} and labels @> ${db.json(wish.nodeSelector)}`;
}

/** What a node that can run the slice has among its drivers. */
function driverIn(db: Queryable, { driver, access }: PlacementWish) {
  return db.json([{ name: driver, usable: true, ...(access === "root" ? { access } : {}) }]);
}

/** Holds that many of the nodes until the commit, the first of the list first. A node that another transaction holds is passed over. */
export async function holdFreeNodes(tx: Tx, nodeIds: readonly string[], limit: number): Promise<string[]> {
  const rows = await tx<{ id: string }[]>`
    select id
    from nodes
    where id = any(${[...nodeIds]})
    order by array_position(${[...nodeIds]}::text[], id)
    limit ${limit}
    for no key update skip locked
  `;
  return rows.map((row) => row.id);
}

/** Holds the nodes until the commit, waiting for each; in the order of their ids, so that no two requests wait for each other. */
export async function holdNodes(tx: Tx, nodeIds: readonly string[]): Promise<void> {
  await tx`select from nodes where id = any(${[...nodeIds]}) order by id for no key update`;
}

/** Takes processors and memory of nodes whose rows the caller holds. Resolves with those whose GPUs are made up. */
export async function takeCapacity(
  tx: Tx,
  takes: readonly { readonly nodeId: string; readonly vcpus: number; readonly memoryMib: number }[],
): Promise<ReadonlySet<string>> {
  const rows = await tx<{ id: string; gpusSimulated: boolean }[]>`
    with taken as (
      insert into node_usage as u (node_id, vcpus, memory_mib)
      select "nodeId", vcpus, "memoryMib"
      from jsonb_to_recordset(${tx.json(takes)}) as take ("nodeId" text, vcpus int, "memoryMib" int)
      -- The order of those who give capacity back.
      order by "nodeId"
      on conflict (node_id) do update set vcpus = u.vcpus + excluded.vcpus, memory_mib = u.memory_mib + excluded.memory_mib
      returning node_id
    )
    select n.id, n.gpus_simulated as "gpusSimulated"
    from nodes n
    join taken on taken.node_id = n.id
  `;
  return new Set(rows.filter((row) => row.gpusSimulated).map((row) => row.id));
}

/** Locks the free slots of the nodes, in the order of their numbers. */
export async function lockFreeSlots(
  tx: Tx,
  nodeIds: readonly string[],
  kind: string | null,
): Promise<{ readonly nodeId: string; readonly gpu: Gpu }[]> {
  return await tx<{ nodeId: string; gpu: Gpu }[]>`
    select node_id as "nodeId", gpu
    from gpu_slots
    where node_id = any(${[...nodeIds]}) and state = 'available' and (${kind}::text is null or gpu_kind = ${kind})
    order by node_id, (gpu ->> 'index')::int
    for update skip locked
  `;
}
