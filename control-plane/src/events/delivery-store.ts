import type { Event } from "@hostler/shared/api/events.ts";
import type { Queryable } from "../db/sql.ts";
import type { SinkKind } from "./event-sink.ts";
import {
  eventColumns,
  isBehind,
  toPlacedEvent,
  withEvent,
  type EventRow,
  type Place,
  type PlacedEvent,
} from "./store.ts";

/** The sink that a round owns, until its lease lapses. */
export interface ClaimedSink extends Place {
  readonly id: string;
  readonly kind: SinkKind;
  readonly projectId: string | null;
  readonly url: string;
  readonly secretEncrypted: Uint8Array;
  readonly topics: readonly string[];
  /** Positions behind the sink's own whose events it took already. */
  readonly settled: readonly number[];
  /** Failures in a row of the event at that position. */
  readonly attempts: number;
  readonly attemptsPosition: number | null;
  readonly failingForMs: number | null;
  readonly token: string;
}

interface ClaimedRow extends Omit<ClaimedSink, "position" | "settled" | "attemptsPosition"> {
  readonly position: string;
  readonly settled: readonly string[];
  readonly attemptsPosition: string | null;
}

/** What one round is to do, in this order. */
export interface DueEvent extends PlacedEvent {
  /** Among the dead letters already, and to be tried once more. */
  readonly isReplay: boolean;
  /** An earlier event of the same aggregate is among the dead letters: this one may not overtake it. */
  readonly isBlocked: boolean;
}

/**
 * Takes one sink that has something to do and that nobody else is at. The lease is a row's column and not its lock: a lock would
 * hold a transaction open for as long as a receiver takes, and with it the sealing of the audit log and vacuum.
 */
export async function claimSink(
  db: Queryable,
  claim: { readonly token: string; readonly leaseMs: number },
): Promise<ClaimedSink | undefined> {
  const [row] = await db<ClaimedRow[]>`
    update event_sinks s
    set lease_token = ${claim.token}, lease_until = now() + ${claim.leaseMs} * interval '1 millisecond'
    where s.id = (
      select d.id
      from event_sinks d
      where d.state = 'active'
        and d.next_attempt_at <= now()
        and (d.lease_until is null or d.lease_until < now())
        and (
          d.position < (select position from event_sequencer)
          or exists (select from event_dead_letters l where l.sink_id = d.id and l.replay_at is not null)
        )
      order by d.next_attempt_at, d.id
      limit 1
      for update skip locked
    )
    returning s.id, s.kind, s.project_id as "projectId", s.url, s.secret_encrypted as "secretEncrypted", s.topics, s.position,
      s.placed_at::text as "placedAt", s.settled::text[], s.attempts, s.attempts_position as "attemptsPosition",
      (extract(epoch from now() - s.failing_since) * 1000)::float8 as "failingForMs", s.lease_token as token
  `;
  if (row === undefined) return undefined;
  const attemptsPosition = row.attemptsPosition === null ? null : Number(row.attemptsPosition);
  return { ...row, position: Number(row.position), settled: row.settled.map(Number), attemptsPosition };
}

/** Dead letters that are to go out again, oldest first, which come before all news. */
export async function readReplays(db: Queryable, sink: ClaimedSink, limit: number): Promise<DueEvent[]> {
  const rows = await db<{ position: string; event: Event }[]>`
    select position, event
    from event_dead_letters
    where sink_id = ${sink.id} and replay_at is not null
    order by position
    limit ${limit}
  `;
  return rows.map(({ position, event }) => ({
    position: Number(position),
    placedAt: sink.placedAt,
    event,
    isReplay: true,
    isBlocked: false,
  }));
}

/** The next events that the sink is interested in and has not taken. */
export async function readNews(
  db: Queryable,
  page: {
    readonly sink: ClaimedSink;
    readonly after: Place;
    readonly settled: readonly number[];
    readonly limit: number;
  },
): Promise<DueEvent[]> {
  const { sink } = page;
  const topics = sink.topics as string[];
  const rows = await db<(EventRow & { isBlocked: boolean })[]>`
    select ${eventColumns(db)}, ${isBlocked(db, sink.id)} as "isBlocked"
    from event_positions p
    ${withEvent(db)}
    where ${isBehind(db, page.after)}
      and ${sink.projectId === null ? db`true` : db`p.project_id = ${sink.projectId}`}
      and (${topics.length === 0} or e.topic = any(${topics}) or split_part(e.topic, '.', 1) || '.*' = any(${topics}))
      and p.position <> all(${page.settled as number[]}::bigint[])
    order by p.position
    limit ${page.limit}
  `;
  return rows.map((row) => ({ ...toPlacedEvent(row), isReplay: false, isBlocked: row.isBlocked }));
}

/** What a round has done so far. */
export interface Progress {
  /** Everything up to here is settled. */
  readonly place: Place;
  /** And behind it, so much more. */
  readonly settled: readonly number[];
  /** Dead letters that were taken. */
  readonly replayed: readonly number[];
  readonly hasDelivered: boolean;
}

/** Notes it and takes the lease anew, in one statement. False when the lease is lost, and the round has to stop. */
export async function saveProgress(
  db: Queryable,
  step: Progress & { readonly sink: ClaimedSink; readonly leaseMs: number },
): Promise<boolean> {
  const { sink, place } = step;
  const rows = await db`
    with mine as (
      update event_sinks
      set position = greatest(position, ${place.position}), placed_at = greatest(placed_at, ${place.placedAt}::text::timestamptz),
        settled = ${step.settled as number[]}::bigint[], lease_until = now() + ${step.leaseMs} * interval '1 millisecond',
        failing_since = case when ${step.hasDelivered} then null else failing_since end,
        last_error = case when ${step.hasDelivered} then null else last_error end
      where id = ${sink.id} and lease_token = ${sink.token} and state = 'active'
      returning id
    ), taken as (
      delete from event_dead_letters d using mine where d.sink_id = mine.id and d.position = any(${step.replayed as number[]}::bigint[])
    )
    select from mine
  `;
  return rows.length > 0;
}

/** An event failed: wait, and count it. */
export async function postponeSink(
  db: Queryable,
  failure: {
    readonly sink: ClaimedSink;
    readonly position: number;
    readonly attempts: number;
    readonly error: string;
    readonly waitMs: number;
    readonly hasDelivered: boolean;
  },
): Promise<void> {
  await db`
    update event_sinks
    set attempts = ${failure.attempts}, attempts_position = ${failure.position}, last_error = ${failure.error},
      failing_since = case when ${failure.hasDelivered} then null else coalesce(failing_since, now()) end,
      next_attempt_at = now() + ${failure.waitMs} * interval '1 millisecond', lease_token = null, lease_until = null
    where id = ${failure.sink.id} and lease_token = ${failure.sink.token}
  `;
}

/**
 * Puts an event among the dead letters. It inherits a replay that is under way for its aggregate, behind which it queues. May run
 * twice. `full` leaves everything as it is; `lost` says that the lease is.
 */
export async function buryEvent(
  db: Queryable,
  burial: {
    readonly sink: ClaimedSink;
    readonly due: DueEvent;
    readonly attempts: number;
    readonly error: string;
    readonly lettersMax: number;
  },
): Promise<"buried" | "full" | "lost"> {
  const { sink, due } = burial;
  const { aggregateId } = due.event;
  const [row] = await db<{ hasRoom: boolean }[]>`
    with mine as (
      select s.id, (select count(*) from event_dead_letters d where d.sink_id = s.id) < ${burial.lettersMax} as has_room
      from event_sinks s
      where s.id = ${sink.id} and s.lease_token = ${sink.token} and s.state = 'active'
      for update
    ), buried as (
      insert into event_dead_letters (sink_id, position, aggregate_id, event, attempts, last_error, replay_at)
      select mine.id, ${due.position}, ${aggregateId}, ${db.json(due.event as never)}, ${burial.attempts}, ${burial.error},
        (select max(d.replay_at) from event_dead_letters d where d.sink_id = mine.id and d.aggregate_id = ${aggregateId})
      from mine
      where mine.has_room
      on conflict (sink_id, position) do nothing
    )
    select has_room as "hasRoom" from mine
  `;
  if (row === undefined) return "lost";
  return row.hasRoom ? "buried" : "full";
}

/** A replay failed for good: it, and what queues behind it in its aggregate, wait for the next word of an operator. */
export async function endReplay(
  db: Queryable,
  burial: { readonly sink: ClaimedSink; readonly due: DueEvent; readonly attempts: number; readonly error: string },
): Promise<boolean> {
  const { sink, due } = burial;
  const rows = await db`
    with mine as (
      update event_sinks set attempts = 0, attempts_position = null
      where id = ${sink.id} and lease_token = ${sink.token} and state = 'active'
      returning id
    )
    update event_dead_letters d
    set replay_at = null,
      attempts = case when d.position = ${due.position} then ${burial.attempts} else d.attempts end,
      last_error = case when d.position = ${due.position} then ${burial.error} else d.last_error end
    from mine
    where d.sink_id = mine.id and d.aggregate_id = ${due.event.aggregateId}
    returning d.position
  `;
  return rows.length > 0;
}

/**
 * Nothing is left to do for now, its turn is over, or the process stops: the next round may begin at once, here or elsewhere, but
 * after those of all sinks that wait already.
 */
export async function releaseSink(db: Queryable, sink: ClaimedSink): Promise<void> {
  await db`
    update event_sinks set lease_token = null, lease_until = null, next_attempt_at = greatest(next_attempt_at, clock_timestamp())
    where id = ${sink.id} and lease_token = ${sink.token}
  `;
}

/** Whether an earlier event of the same aggregate is among the sink's dead letters. */
function isBlocked(db: Queryable, sinkId: string) {
  return db`exists (
    select from event_dead_letters d
    where d.sink_id = ${sinkId} and d.aggregate_id = e.aggregate_id and d.position < p.position
  )`;
}
