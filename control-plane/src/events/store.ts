import type { Event } from "@hostler/shared/api/events.ts";
import type { Queryable, Tx } from "../db/sql.ts";

/** Any number that nothing else locks. */
const SEQUENCER_LOCK_KEY = 4_107_823_392;

/** Whose events: a project's, or the platform's, which are all there are. */
export type EventScope = { readonly projectId: string } | "platform";

export interface PlacedEvent extends Place {
  readonly event: Event;
}

export interface SequencedBatch {
  readonly count: number;
  readonly projectIds: readonly (string | null)[];
}

/**
 * Which events are looked at. `lately` is what is written while the loop runs: demand_record() refuses a transaction that was open
 * for half a day. `ever` is for a start, and after the database was away.
 */
export type SearchDepth = "lately" | "ever";

/** Whether there is an event that could get its position now. Takes no lock and no transaction number. */
export async function hasUnsequenced(db: Queryable, depth: SearchDepth): Promise<boolean> {
  const rows = await db`select from events e where ${isUnsequenced(db, depth)} order by e.tx limit 1`;
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
export async function sequenceBatch(tx: Tx, limit: number, depth: SearchDepth): Promise<SequencedBatch> {
  const rows = await tx<{ projectId: string | null }[]>`
    with due as materialized (
      select e.seq, e.at, e.project_id
      from events e
      where ${isUnsequenced(tx, depth)}
    ), batch as (
      select seq, at, project_id
      from due
      order by seq
      limit ${limit}
    ), moved as (
      update event_sequencer s
      set below_tx = case when f.due <= ${limit} then pg_snapshot_xmin(pg_current_snapshot()) else s.below_tx end,
        position = s.position + f.taken, placed_at = ${placedAt(tx)}
      from (select (select count(*) from due) as due, count(*) as taken, max(at) as newest_at from batch) as f
      where f.taken > 0
      returning s.position - f.taken as position, s.placed_at
    )
    insert into event_positions (position, placed_at, event_seq, event_at, project_id)
    select m.position + row_number() over (order by b.seq), m.placed_at, b.seq, b.at, b.project_id
    from batch b
    cross join moved m
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
    with restored as materialized (
      select e.seq, e.at, e.project_id
      from events e
      where (select below_tx from event_sequencer) > pg_snapshot_xmax(pg_current_snapshot())
        and not exists (select from event_positions p where p.event_seq = e.seq)
    ), moved as (
      update event_sequencer s
      set below_tx = pg_snapshot_xmin(pg_current_snapshot()), position = s.position + f.taken, placed_at = ${placedAt(tx)}
      from (select count(*) as taken, max(at) as newest_at from restored) as f
      where s.below_tx > pg_snapshot_xmax(pg_current_snapshot())
      returning s.position - f.taken as position, s.placed_at
    )
    insert into event_positions (position, placed_at, event_seq, event_at, project_id)
    select m.position + row_number() over (order by r.seq), m.placed_at, r.seq, r.at, r.project_id
    from restored r
    cross join moved m
  `;
}

/** Never falls, whatever the clock does, and lies at or after the time of every event of the batch (`f`). */
function placedAt(db: Queryable) {
  return db`greatest(s.placed_at, f.newest_at, clock_timestamp())`;
}

/**
 * The subquery, unlike an anti-join, is always one look into the index for each row of the short range. The range ends at xmax
 * because rows that were restored from another server may have any number above it.
 */
function isUnsequenced(db: Queryable, depth: SearchDepth) {
  return db`${depth === "ever" ? db`true` : db`e.at between now() - interval '1 day' and now() + interval '1 day'`}
    and e.tx >= (select below_tx from event_sequencer)
    and e.tx < pg_snapshot_xmax(pg_current_snapshot())
    and (select p.position from event_positions p where p.event_seq = e.seq and p.placed_at >= e.at) is null`;
}

/**
 * A place in the order. `placedAt` never falls as the position rises, so that a reader looks at no day before the one it is in.
 * The text keeps microseconds.
 */
export interface Place {
  readonly position: number;
  readonly placedAt: string;
}
export const FIRST_PLACE: Place = { position: 0, placedAt: "-infinity" };

/** The last place that was given; that before the first when there is none. */
export async function readTip(db: Queryable): Promise<Place> {
  const [row] = await db<PlaceRow[]>`select position, placed_at::text as "placedAt" from event_sequencer`;
  return row === undefined ? FIRST_PLACE : toPlace(row);
}

/** The newest event of the scope, which is where a reader begins who asks for news only; null when there is none. */
export async function readNewest(db: Queryable, scope: EventScope): Promise<({ readonly id: string } & Place) | null> {
  const [row] = await db<(PlaceRow & { id: string })[]>`
    select e.id, ${placeColumns(db)}
    from event_positions p
    ${withEvent(db)}
    where ${inScope(db, scope)}
    order by p.position desc
    limit 1
  `;
  return row === undefined ? null : { id: row.id, ...toPlace(row) };
}

/** The position of an event that the scope may see; undefined for any other. */
export async function findPosition(db: Queryable, scope: EventScope, eventId: string): Promise<Place | undefined> {
  const [row] = await db<PlaceRow[]>`
    select ${placeColumns(db)}
    from events e
    cross join lateral (select * from event_positions where event_seq = e.seq and placed_at >= e.at limit 1) p
    where e.id = ${eventId} and ${inScope(db, scope)}
  `;
  return row === undefined ? undefined : toPlace(row);
}

/** The scope's events behind a place, in order. */
export async function readEvents(
  db: Queryable,
  page: { readonly scope: EventScope; readonly after: Place; readonly limit: number },
): Promise<PlacedEvent[]> {
  const rows = await db<EventRow[]>`
    select ${eventColumns(db)}
    from event_positions p
    ${withEvent(db)}
    where ${isBehind(db, page.after)} and ${inScope(db, page.scope)}
    order by p.position
    limit ${page.limit}
  `;
  return rows.map(toPlacedEvent);
}

/** A query row with the columns of `eventColumns`. */
export interface EventRow extends Event, PlaceRow {}

interface PlaceRow {
  readonly position: string;
  readonly placedAt: string;
}

/** For queries that name the event `e` and its position `p`. */
export function eventColumns(db: Queryable) {
  return db`
    ${placeColumns(db)}, e.id, e.topic, to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at,
    e.aggregate_id as "aggregateId", e.aggregate_version as "aggregateVersion", e.project_id as "projectId", e.body
  `;
}

/**
 * Brings the event `e` of each position `p`, by one look into the day it is in. A plain join invites the planner to read all days:
 * it does not know that the time follows from the number.
 */
export function withEvent(db: Queryable) {
  return db`cross join lateral (select * from events where seq = p.event_seq and at = p.event_at limit 1) e`;
}

/** Whether the position `p` is behind a place; the times say which days not to look at. */
export function isBehind(db: Queryable, place: Place) {
  return db`p.position > ${place.position} and p.placed_at >= ${place.placedAt}::text::timestamptz
    and p.placed_at < now() + interval '1 day'`;
}

export function toPlacedEvent(row: EventRow): PlacedEvent {
  const { id, topic, at, aggregateId, aggregateVersion, projectId, body } = row;
  return { ...toPlace(row), event: { id, topic, at, aggregateId, aggregateVersion, projectId, body } };
}

export function toPlace(row: PlaceRow): Place {
  return { position: Number(row.position), placedAt: row.placedAt };
}

function placeColumns(db: Queryable) {
  return db`p.position, p.placed_at::text as "placedAt"`;
}

function inScope(db: Queryable, scope: EventScope) {
  return scope === "platform" ? db`true` : db`p.project_id = ${scope.projectId}`;
}
