import type { Event } from "@hostler/shared/api/events.ts";
import type { Queryable, Tx } from "../db/sql.ts";

/** Any number that nothing else locks. */
const SEQUENCER_LOCK_KEY = 4_107_823_392;

/** Whose events: a project's, or the platform's, which are all there are. */
export type EventScope = { readonly projectId: string } | "platform";

export interface PlacedEvent {
  readonly position: number;
  readonly event: Event;
}

export interface SequencedBatch {
  readonly count: number;
  readonly projectIds: readonly (string | null)[];
}

/** Whether there is an event that could get its position now. Takes no lock and no transaction number. */
export async function hasUnsequenced(db: Queryable): Promise<boolean> {
  const rows = await db`select from events e where ${isUnsequenced(db)} order by e.tx limit 1`;
  return rows.length > 0;
}

/** False when another replica is at it; held until the transaction ends, also when its process dies. */
export async function trySequencerLock(tx: Tx): Promise<boolean> {
  const [row] = await tx<{ isMine: boolean }[]>`select pg_try_advisory_xact_lock(${SEQUENCER_LOCK_KEY}) as "isMine"`;
  return row?.isMine === true;
}

/**
 * Gives every committed event that has none a position, by `seq`. What commits later gets a later position, so a reader that
 * follows positions misses nothing, however long a transaction stays open, and no transaction holds others back.
 *
 * Why an aggregate's events stay in order: a change waits for the row's lock until the change before it committed, and takes its
 * `seq` after that. So whoever sees the later one sees the earlier one too, with a lower `seq`: it is in this set before it, or
 * has its position already. Two orders that do not have this: (tx, seq), since the later change may be of the transaction with
 * the lower number, one that wrote elsewhere first; and to take only what lies below the oldest running transaction, since that
 * one's number may lie between the two.
 *
 * `below_tx` keeps the search short: below xmin of a snapshot every transaction has ended, and what committed is visible and
 * gets its position here.
 */
export async function sequenceBatch(tx: Tx, limit: number): Promise<SequencedBatch> {
  const rows = await tx<{ projectId: string | null }[]>`
    with due as materialized (
      select e.seq, e.project_id
      from events e
      where ${isUnsequenced(tx)}
    ), batch as (
      select seq, project_id
      from due
      order by seq
      limit ${limit}
    ), moved as (
      update event_sequencer set below_tx = pg_snapshot_xmin(pg_current_snapshot())
      where (select count(*) from due) between 1 and ${limit}
    )
    insert into event_positions (position, event_seq, project_id)
    select (select coalesce(max(position), 0) from event_positions) + row_number() over (order by seq), seq, project_id
    from batch
    returning project_id as "projectId"
  `;
  return { count: rows.length, projectIds: [...new Set(rows.map((row) => row.projectId))] };
}

/**
 * After the data were restored as text (pg_dump) onto a server whose transaction numbers are lower, `below_tx` lies ahead of all
 * that comes. Then every event is compared with the positions, once. Changes nothing otherwise; call it under the lock.
 */
export async function sequenceRestored(tx: Tx): Promise<void> {
  await tx`
    with restored as (
      update event_sequencer set below_tx = pg_snapshot_xmin(pg_current_snapshot())
      where below_tx > pg_snapshot_xmax(pg_current_snapshot())
      returning id
    )
    insert into event_positions (position, event_seq, project_id)
    select (select coalesce(max(position), 0) from event_positions) + row_number() over (order by e.seq), e.seq, e.project_id
    from events e
    cross join restored
    where not exists (select from event_positions p where p.event_seq = e.seq)
  `;
}

/**
 * The subquery, unlike an anti-join, is always one look into the index for each row of the short range. The range ends at xmax
 * because rows that were restored from another server may have any number above it.
 */
function isUnsequenced(db: Queryable) {
  return db`e.tx >= (select below_tx from event_sequencer)
    and e.tx < pg_snapshot_xmax(pg_current_snapshot())
    and (select p.position from event_positions p where p.event_seq = e.seq) is null`;
}

/** The last position that was given; 0 before the first. */
export async function readTip(db: Queryable): Promise<number> {
  const [row] = await db<{ position: string }[]>`
    select coalesce(max(position), 0) as position from event_positions
  `;
  return Number(row?.position ?? 0);
}

/** The newest event of the scope, which is where a reader begins who asks for news only; null when there is none. */
export async function readNewest(
  db: Queryable,
  scope: EventScope,
): Promise<{ readonly id: string; readonly position: number } | null> {
  const [row] = await db<{ id: string; position: string }[]>`
    select e.id, p.position
    from event_positions p
    join events e on e.seq = p.event_seq
    where ${inScope(db, scope)}
    order by p.position desc
    limit 1
  `;
  return row === undefined ? null : { id: row.id, position: Number(row.position) };
}

/** The position of an event that the scope may see; undefined for any other. */
export async function findPosition(db: Queryable, scope: EventScope, eventId: string): Promise<number | undefined> {
  const [row] = await db<{ position: string }[]>`
    select p.position
    from events e
    join event_positions p on p.event_seq = e.seq
    where e.id = ${eventId} and ${inScope(db, scope)}
  `;
  return row === undefined ? undefined : Number(row.position);
}

/** The scope's events behind a position, in order. */
export async function readEvents(
  db: Queryable,
  page: { readonly scope: EventScope; readonly after: number; readonly limit: number },
): Promise<PlacedEvent[]> {
  const rows = await db<EventRow[]>`
    select ${eventColumns(db)}
    from event_positions p
    join events e on e.seq = p.event_seq
    where p.position > ${page.after} and ${inScope(db, page.scope)}
    order by p.position
    limit ${page.limit}
  `;
  return rows.map(toPlacedEvent);
}

/** A query row with the columns of `eventColumns`. */
export interface EventRow extends Event {
  readonly position: string;
}

/** For queries that name the event `e` and its position `p`. */
export function eventColumns(db: Queryable) {
  return db`
    p.position, e.id, e.topic, to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at,
    e.aggregate_id as "aggregateId", e.aggregate_version as "aggregateVersion", e.project_id as "projectId", e.body
  `;
}

export function toPlacedEvent(row: EventRow): PlacedEvent {
  const { id, topic, at, aggregateId, aggregateVersion, projectId, body } = row;
  return {
    position: Number(row.position),
    event: { id, topic, at, aggregateId, aggregateVersion, projectId, body },
  };
}

function inScope(db: Queryable, scope: EventScope) {
  return scope === "platform" ? db`true` : db`p.project_id = ${scope.projectId}`;
}
