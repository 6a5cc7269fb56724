import type { DrainPolicy } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import {
  DOWN_LIMITS,
  ZONE_LABEL,
  zoneOf,
  type BrakeReason,
  type BrakeView,
  type JudgedFleet,
  type JudgedNode,
} from "./model.ts";

/** Any number nobody else uses: one replica at a time judges the nodes. */
const SWEEPER_LOCK_KEY = 5_114_920_377;

/** Whether this transaction is the one that judges; it stays so until its end. */
export async function takeSweeperLock(tx: Tx): Promise<boolean> {
  const [row] = await tx<{ isMine: boolean }[]>`select pg_try_advisory_xact_lock(${SWEEPER_LOCK_KEY}) as "isMine"`;
  return row?.isMine === true;
}

/** Says that this replica has just written down all that it heard. A gap before it begins a new steady time. */
export async function noteFlush(db: Queryable, replicaId: string): Promise<void> {
  await db`
    insert into liveness_flushes (replica_id, flushed_at, steady_since)
    values (${replicaId}, clock_timestamp(), clock_timestamp())
    on conflict (replica_id) do update
    set flushed_at = excluded.flushed_at,
      steady_since = case
        when excluded.flushed_at - liveness_flushes.flushed_at > make_interval(secs => ${DOWN_LIMITS.flushGapMs / 1000})
        then excluded.flushed_at
        else liveness_flushes.steady_since
      end
  `;
}

/** A replica that stops in order is not missed. */
export async function forgetFlushes(db: Queryable, replicaId: string): Promise<void> {
  await db`delete from liveness_flushes where replica_id = ${replicaId}`;
}

/** Replicas that died are remembered for a day, which is far longer than they count. */
export async function forgetDeadReplicas(tx: Tx): Promise<void> {
  await tx`delete from liveness_flushes where flushed_at < now() - interval '1 day'`;
}

/** Whether a replica fell silent within the time of grace; one that stopped in order told so. */
export async function findLostReplica(db: Queryable): Promise<boolean> {
  const [row] = await db<{ isLost: boolean }[]>`
    select exists (
      select from liveness_flushes
      where flushed_at < now() - make_interval(secs => ${DOWN_LIMITS.flushGapMs / 1000})
        and flushed_at > now() - make_interval(secs => ${(DOWN_LIMITS.flushGapMs + DOWN_LIMITS.graceMs) / 1000})
    ) as "isLost"
  `;
  return row?.isLost === true;
}

/**
 * The database's time, and since when all replicas could write what they heard. A replica that is late counts as away until
 * one gap after its last word: the nodes it served go to another one meanwhile, or are silent because of us.
 */
export async function readSteadiness(tx: Tx): Promise<BrakeView & { readonly nowMs: number }> {
  const gapSeconds = DOWN_LIMITS.flushGapMs / 1000;
  const [row] = await tx<{ nowMs: number; steadySinceMs: number | null }[]>`
    select (extract(epoch from now()) * 1000)::float8 as "nowMs",
      (select case
          when bool_or(flushed_at >= now() - make_interval(secs => ${gapSeconds})) then
            (extract(epoch from max(case
              when flushed_at >= now() - make_interval(secs => ${gapSeconds}) then steady_since
              else flushed_at + make_interval(secs => ${gapSeconds})
            end)) * 1000)::float8
        end
        from liveness_flushes) as "steadySinceMs"
  `;
  if (row === undefined) throw new Error("a select without a table returned no row");
  return row;
}

/** Who may go down or come back now, and how large each failure domain is: of a fleet that is well, next to nothing. */
export async function readJudgedFleet(tx: Tx): Promise<JudgedFleet> {
  const nodes = await tx<JudgedNode[]>`
    select n.id, n.state, n.labels ->> ${ZONE_LABEL} as zone, n.down_from as "downFrom",
      (extract(epoch from coalesce(l.last_seen_at, n.state_since)) * 1000)::float8 as "lastHeardMs",
      (extract(epoch from n.down_at) * 1000)::float8 as "downAtMs"
    from nodes n
    left join node_liveness l on l.node_id = n.id
    where n.state in ('ready', 'cordoned', 'draining', 'down')
      and (n.state = 'down'
        or coalesce(l.last_seen_at, n.state_since) < now() - make_interval(secs => ${DOWN_LIMITS.silenceMs / 1000})
        or n.down_at > now() - make_interval(secs => ${DOWN_LIMITS.brakeWindowMs / 1000}))
    order by n.id
  `;
  const domains = await tx<{ zone: string | null; members: number }[]>`
    select labels ->> ${ZONE_LABEL} as zone, count(*)::int as members
    from nodes
    where state in ('ready', 'cordoned', 'draining', 'down')
    group by 1
  `;
  return { nodes, members: new Map(domains.map((domain) => [zoneOf(domain), domain.members])) };
}

/** Those of the nodes that nobody else holds now, locked; the others have their turn in the next round. */
export async function lockNodes(tx: Tx, nodeIds: readonly string[]): Promise<ReadonlySet<string>> {
  const rows = await tx<{ id: string }[]>`
    select id from nodes where id = any(${[...nodeIds]}) order by id for update skip locked
  `;
  return new Set(rows.map((row) => row.id));
}

/** Undefined when an incident is open already. */
export async function openIncident(tx: Tx, id: string, brake: BrakeReason): Promise<string | undefined> {
  const [row] = await tx<{ id: string }[]>`
    insert into node_incidents (id, zone, silent, nodes)
    values (${id}, ${brake.zone}, ${brake.silent}, ${brake.nodes})
    on conflict do nothing
    returning id
  `;
  return row?.id;
}

export async function closeIncident(tx: Tx): Promise<string | undefined> {
  const [row] = await tx<{ id: string }[]>`
    update node_incidents set closed_at = now() where closed_at is null returning id
  `;
  return row?.id;
}

export async function saveDrain(
  tx: Tx,
  drain: { readonly nodeId: string; readonly policy: DrainPolicy; readonly noticeSeconds: number },
): Promise<void> {
  await tx`
    update nodes
    set drain_policy = ${drain.policy}, drain_since = coalesce(drain_since, now()),
      drain_stops_at = case when ${drain.policy} = 'stop' then now() + make_interval(secs => ${drain.noticeSeconds}) end
    where id = ${drain.nodeId} and state = 'draining'
  `;
}

/** The nodes whose drain has nothing left to wait for, locked: nobody moves them meanwhile, and nothing new is placed on them. */
export async function lockEmptiedNodes(tx: Tx, limit: number): Promise<string[]> {
  const rows = await tx<{ id: string }[]>`
    select n.id
    from nodes n
    where n.state = 'draining'
      and not exists (select from allocations a where a.node_id = n.id and a.ended_at is null)
    order by n.id
    limit ${limit}
    for update of n skip locked
  `;
  return rows.map((row) => row.id);
}

/** Slices whose notice has run out and that nobody gives back yet. One whose release failed waits for an operator. */
export async function listDueAllocations(db: Queryable, limit: number): Promise<string[]> {
  const rows = await db<{ id: string }[]>`
    -- By the few nodes, and not by the many allocations.
    with due as materialized (
      select id from nodes where state = 'draining' and drain_stops_at <= now()
    )
    select a.id
    from due
    join allocations a on a.node_id = due.id and a.ended_at is null and a.state in ('requested', 'provisioning', 'active')
    order by a.id
    limit ${limit}
  `;
  return rows.map((row) => row.id);
}

/** How many allocations hold something of the node, which the caller has locked. */
export async function countHeld(tx: Tx, nodeId: string): Promise<number> {
  const [row] = await tx<{ held: number }[]>`
    select count(*)::int as held from allocations where node_id = ${nodeId} and ended_at is null
  `;
  return row?.held ?? 0;
}

/** How many hosts tasks have blamed and quarantined within the hour, of how many that are or were in service. */
export async function countBlamed(tx: Tx): Promise<{ readonly blamed: number; readonly nodes: number }> {
  const [row] = await tx<{ blamed: number; nodes: number }[]>`
    select count(*) filter (where state = 'quarantined' and reason like 'host: %' and state_since > now() - interval '1 hour')::int as blamed,
      count(*)::int as nodes
    from nodes
    where state not in ('enrolled', 'revoked', 'retired')
  `;
  return row ?? { blamed: 0, nodes: 0 };
}

/** Sets the labels that have a value and takes away those that are null. False when there is no such node. */
export async function patchLabels(
  tx: Tx,
  nodeId: string,
  labels: Readonly<Record<string, string | null>>,
): Promise<Readonly<Record<string, string>> | undefined> {
  const [row] = await tx<{ labels: Record<string, string> }[]>`
    update nodes
    set labels = jsonb_strip_nulls(labels || ${tx.json(labels)})
    where id = ${nodeId}
    returning labels
  `;
  return row?.labels;
}
