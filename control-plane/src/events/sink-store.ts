import type { DeadLetter, Webhook } from "@hostler/shared/api/events.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import type { SinkKind } from "./event-sink.ts";
import type { SinkLag } from "./read-sink-lag.ts";

/** Behind more than this is said as this: counting on would read a large part of the table for each listing. */
const BEHIND_MAX = 1000;

export interface SinkRow {
  readonly id: string;
  readonly kind: SinkKind;
  readonly version: number;
  readonly state: "active" | "disabled";
  readonly projectId: string | null;
  readonly url: string;
  readonly secretEncrypted: Uint8Array;
}

/** The sinks of one kind, of exactly one project or exactly the platform. */
export interface SinkScope {
  readonly kind: SinkKind;
  readonly projectId: string | null;
}

interface WebhookRow extends Omit<Webhook, "createdAt"> {
  createdAt: Date;
}

export async function insertSink(
  tx: Tx,
  sink: {
    readonly id: string;
    readonly kind: SinkKind;
    readonly projectId: string | null;
    readonly url: string;
    readonly secretEncrypted: Buffer;
    readonly topics: readonly string[];
    readonly createdBy: string;
  },
): Promise<void> {
  await tx`
    insert into event_sinks (id, kind, project_id, url, secret_encrypted, topics, state, position, placed_at, created_by)
    select ${sink.id}, ${sink.kind}, ${sink.projectId}::text, ${sink.url}, ${sink.secretEncrypted}::bytea, ${sink.topics as string[]}::text[],
      'active', position, placed_at, ${sink.createdBy}
    from event_sequencer
  `;
}

/** How many sinks there are of one scope; the row lock of nothing, so two at once may both pass. */
export async function countSinks(db: Queryable, scope: SinkScope): Promise<number> {
  const [row] = await db<{ count: number }[]>`
    select count(*)::int as count
    from event_sinks s
    where ${inScope(db, scope)}
  `;
  return row?.count ?? 0;
}

export async function readSinks(
  db: Queryable,
  page: SinkScope & {
    readonly id: string | null;
    readonly after: string | null;
    readonly limit: number;
  },
): Promise<Webhook[]> {
  const rows = await db<WebhookRow[]>`
    select s.id, s.project_id as "projectId", s.url, s.topics, s.state, s.reason, s.last_error as "lastError",
      s.created_at as "createdAt",
      (select count(*)::int from (
        select from event_positions p
        where p.position > s.position and p.placed_at >= s.placed_at and p.position <> all(s.settled)
          and (s.project_id is null or p.project_id = s.project_id)
        limit ${BEHIND_MAX}
      ) as waiting) as behind,
      (select count(*)::int from event_dead_letters d where d.sink_id = s.id) as "deadLetters"
    from event_sinks s
    where ${inScope(db, page)}
      and (${page.id}::text is null or s.id = ${page.id})
      and (${page.after}::text is null or s.id > ${page.after})
    order by s.id
    limit ${page.limit}
  `;
  return rows.map((row) => ({ ...row, createdAt: row.createdAt.toISOString() }));
}

/** The sink of that scope, locked until the transaction ends; undefined when there is none. */
export async function lockSink(tx: Tx, id: string, scope: SinkScope): Promise<SinkRow | undefined> {
  const [row] = await tx<SinkRow[]>`
    select ${sinkColumns(tx)}
    from event_sinks s
    where s.id = ${id} and ${inScope(tx, scope)}
    for update
  `;
  return row;
}

export async function readSink(db: Queryable, id: string, scope: SinkScope): Promise<SinkRow | undefined> {
  const [row] = await db<SinkRow[]>`
    select ${sinkColumns(db)}
    from event_sinks s
    where s.id = ${id} and ${inScope(db, scope)}
  `;
  return row;
}

/** Resolves with the version that the change gave, undefined when the sink is in none of the states `from`. */
export async function moveSink(
  tx: Tx,
  move: {
    readonly id: string;
    readonly from: readonly SinkRow["state"][];
    readonly to: SinkRow["state"] | "removed";
    readonly reason: string | null;
  },
): Promise<number | undefined> {
  const [row] = await tx<{ version: number }[]>`
    update event_sinks
    set state = ${move.to}, reason = ${move.reason}, version = version + 1, attempts = 0, attempts_position = null, failing_since = null,
      next_attempt_at = now(), lease_token = null, lease_until = null
    where id = ${move.id} and state = any(${move.from as string[]})
    returning version
  `;
  return row?.version;
}

/** A removed webhook's secret is of no use to anybody, and its dead letters neither. */
export async function emptySink(tx: Tx, id: string): Promise<void> {
  await tx`delete from event_dead_letters where sink_id = ${id}`;
  await tx`update event_sinks set secret_encrypted = '', settled = '{}' where id = ${id}`;
}

/**
 * How many events in the platform's order lie between the sink's position and the oldest that is still kept: those are gone. None for
 * an active sink, which holds what it needs.
 */
export async function countMissed(db: Queryable, id: string): Promise<number> {
  const [row] = await db<{ missed: string }[]>`
    select greatest(0, coalesce((select min(p.position) from event_positions p), q.position + 1) - 1 - s.position) as missed
    from event_sinks s
    cross join event_sequencer q
    where s.id = ${id}
  `;
  return Number(row?.missed ?? 0);
}

/** Positions, also those that are of no interest to the sink: cheap, for all sinks at once. */
export async function readLag(db: Queryable): Promise<SinkLag[]> {
  return await db<SinkLag[]>`
    select s.id, s.kind, s.state, (q.position - s.position)::float8 as behind,
      (select count(*)::int from event_dead_letters d where d.sink_id = s.id) as "deadLetters"
    from event_sinks s
    cross join event_sequencer q
    where s.state <> 'removed'
    order by s.id
    limit 1000
  `;
}

/** Active sinks that still need what was placed so many days ago; what they need is held back from being dropped. */
export async function readLaggingSinks(
  db: Queryable,
  days: number,
): Promise<(Pick<SinkRow, "id" | "kind" | "projectId"> & { readonly daysBehind: number })[]> {
  return await db<(Pick<SinkRow, "id" | "kind" | "projectId"> & { daysBehind: number })[]>`
    select s.id, s.kind, s.project_id as "projectId", extract(day from now() - p.placed_at)::int as "daysBehind"
    from event_sinks s
    cross join lateral (
      select p.placed_at
      from event_positions p
      where p.position > s.position and p.placed_at >= s.placed_at
      order by p.position
      limit 1
    ) p
    where s.state = 'active' and p.placed_at < now() - ${days} * interval '1 day'
  `;
}

/** Marks all dead letters to go out again; resolves with how many. */
export async function replayDeadLetters(tx: Tx, sinkId: string): Promise<number> {
  const rows = await tx`
    update event_dead_letters set replay_at = now(), attempts = 0
    where sink_id = ${sinkId}
    returning position
  `;
  await tx`update event_sinks set attempts = 0, attempts_position = null, next_attempt_at = now() where id = ${sinkId}`;
  return rows.length;
}

/**
 * Puts the sink back to before the first event that was placed at that time or later, as far as events are kept, and takes away the
 * dead letters that come again by that. The one step backwards that a position takes, by an operator's word; a round that is under
 * way loses its lease.
 */
export async function rewindSink(tx: Tx, sinkId: string, since: string): Promise<void> {
  await tx`
    with target as (
      select p.position - 1 as position, p.placed_at
      from event_positions p
      where p.placed_at >= ${since}::timestamptz
      order by p.position
      limit 1
    ), forgotten as (
      delete from event_dead_letters d using target t where d.sink_id = ${sinkId} and d.position > t.position
    )
    update event_sinks s
    set position = least(s.position, t.position), placed_at = least(s.placed_at, t.placed_at), settled = '{}', attempts = 0,
      attempts_position = null, next_attempt_at = now(), lease_token = null, lease_until = null
    from target t
    where s.id = ${sinkId}
  `;
}

export async function readDeadLetters(
  db: Queryable,
  page: { readonly sinkId: string; readonly after: number; readonly limit: number },
): Promise<{ position: number; letter: DeadLetter }[]> {
  const rows = await db<(Omit<DeadLetter, "at"> & { position: string; at: Date })[]>`
    select position, event, attempts, last_error as "lastError", at, replay_at is not null as "isReplaying"
    from event_dead_letters
    where sink_id = ${page.sinkId} and position > ${page.after}
    order by position
    limit ${page.limit}
  `;
  return rows.map(({ position, at, ...letter }) => ({
    position: Number(position),
    letter: { ...letter, at: at.toISOString() },
  }));
}

/** For queries that name the sink `s`. */
function inScope(db: Queryable, scope: SinkScope) {
  return db`s.kind = ${scope.kind} and s.project_id is not distinct from ${scope.projectId} and s.state <> 'removed'`;
}

function sinkColumns(db: Queryable) {
  return db`s.id, s.kind, s.version, s.state, s.project_id as "projectId", s.url, s.secret_encrypted as "secretEncrypted"`;
}
