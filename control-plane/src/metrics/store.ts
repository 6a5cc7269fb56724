import type { Queryable } from "../db/sql.ts";

/** How many rows are in each state, of everything that has states. */
export async function countStates(
  db: Queryable,
): Promise<{ readonly what: string; readonly state: string; readonly count: number }[]> {
  return await db<{ what: string; state: string; count: number }[]>`
    select 'nodes' as what, state, count(*)::int from nodes group by state
    union all
    select 'allocations', state, count(*)::int from allocations group by state
    union all
    select 'tasks', state, count(*)::int from tasks where state in ('ready', 'leased') group by state
    union all
    select 'gpu_slots', state, count(*)::int from gpu_slots where card_uuid is null group by state
    union all
    select 'mig_slots', state, count(*)::int from gpu_slots where card_uuid is not null group by state
    union all
    select 'node_incidents', 'open', count(*)::int from node_incidents where closed_at is null
    union all
    select 'incidents', state, count(*)::int from incidents where state <> 'closed' group by state
    union all
    select 'slice_findings', kind, count(*)::int from slice_findings where resolved_at is null group by kind
    union all
    select 'terminals', 'open', count(*)::int from terminals where redeemed_at is not null and closed_at is null
  `;
}

/** How many of each MIG kind could be had now if nothing else were asked for. */
export async function sumMigFree(db: Queryable): Promise<{ readonly kind: string; readonly free: number }[]> {
  return await db<{ kind: string; free: number }[]>`
    select gpu_kind as kind, sum(free)::int as free from mig_capacity group by gpu_kind order by gpu_kind
  `;
}
