import type { Queryable } from "../db/sql.ts";
import { eventColumns, toPlacedEvent, type EventRow, type PlacedEvent } from "./store.ts";

/** The sink that a round owns, until its lease lapses. */
export interface ClaimedSink {
  readonly id: string;
  readonly projectId: string | null;
  readonly url: string;
  readonly secretEncrypted: Uint8Array;
  readonly topics: readonly string[];
  readonly position: number;
  readonly attempts: number;
  readonly failingForMs: number | null;
  readonly token: string;
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
  const [row] = await db<(Omit<ClaimedSink, "position"> & { position: string })[]>`
    update event_sinks s
    set lease_token = ${claim.token}, lease_until = now() + ${claim.leaseMs} * interval '1 millisecond'
    where s.id = (
      select d.id
      from event_sinks d
      where d.state = 'active'
        and d.next_attempt_at <= now()
        and (d.lease_until is null or d.lease_until < now())
        and (
          d.position < (select max(position) from event_positions)
          or exists (select from event_dead_letters l where l.sink_id = d.id and l.replay_at is not null)
        )
      order by d.next_attempt_at
      limit 1
      for update skip locked
    )
    returning s.id, s.project_id as "projectId", s.url, s.secret_encrypted as "secretEncrypted", s.topics, s.position, s.attempts,
      (extract(epoch from now() - s.failing_since) * 1000)::float8 as "failingForMs", s.lease_token as token
  `;
  return row === undefined ? undefined : { ...row, position: Number(row.position) };
}

/** Dead letters that are to go out again, oldest first, which come before all news. */
export async function readReplays(db: Queryable, sink: ClaimedSink, limit: number): Promise<DueEvent[]> {
  const rows = await db<EventRow[]>`
    select ${eventColumns(db)}
    from event_dead_letters d
    join event_positions p on p.position = d.position
    join events e on e.seq = p.event_seq
    where d.sink_id = ${sink.id} and d.replay_at is not null
    order by d.position
    limit ${limit}
  `;
  return rows.map((row) => ({ ...toPlacedEvent(row), isReplay: true, isBlocked: false }));
}

/** The next events that the sink is interested in. */
export async function readNews(db: Queryable, sink: ClaimedSink, limit: number): Promise<DueEvent[]> {
  const topics = sink.topics as string[];
  const rows = await db<(EventRow & { isBlocked: boolean })[]>`
    select ${eventColumns(db)}, ${isBlocked(db, sink.id)} as "isBlocked"
    from event_positions p
    join events e on e.seq = p.event_seq
    where p.position > ${sink.position}
      and ${sink.projectId === null ? db`true` : db`p.project_id = ${sink.projectId}`}
      and (${topics.length === 0} or e.topic = any(${topics}) or split_part(e.topic, '.', 1) || '.*' = any(${topics}))
    order by p.position
    limit ${limit}
  `;
  return rows.map((row) => ({ ...toPlacedEvent(row), isReplay: false, isBlocked: row.isBlocked }));
}

/** An event was taken: forward past it, and the lease anew. False when the lease is lost, and the round has to stop. */
export async function advanceSink(
  db: Queryable,
  step: {
    readonly sink: ClaimedSink;
    readonly position: number;
    readonly leaseMs: number;
    readonly hasDelivered: boolean;
  },
): Promise<boolean> {
  const { sink } = step;
  const rows = await db`
    update event_sinks
    set position = greatest(position, ${step.position}), lease_until = now() + ${step.leaseMs} * interval '1 millisecond',
      attempts = case when ${step.hasDelivered} then 0 else attempts end,
      failing_since = case when ${step.hasDelivered} then null else failing_since end,
      last_error = case when ${step.hasDelivered} then null else last_error end
    where id = ${sink.id} and lease_token = ${sink.token} and state = 'active'
    returning id
  `;
  return rows.length > 0;
}

/** A replayed dead letter was taken. False when the lease is lost. */
export async function settleReplay(
  db: Queryable,
  step: { readonly sink: ClaimedSink; readonly position: number; readonly leaseMs: number },
): Promise<boolean> {
  const rows = await db`
    with mine as (
      update event_sinks
      set lease_until = now() + ${step.leaseMs} * interval '1 millisecond', attempts = 0, failing_since = null,
        last_error = null
      where id = ${step.sink.id} and lease_token = ${step.sink.token} and state = 'active'
      returning id
    ), settled as (
      delete from event_dead_letters d using mine where d.sink_id = mine.id and d.position = ${step.position}
    )
    select from mine
  `;
  return rows.length > 0;
}

/** The first in line failed: wait, and count it. */
export async function postponeSink(
  db: Queryable,
  failure: { readonly sink: ClaimedSink; readonly error: string; readonly waitMs: number },
): Promise<void> {
  await db`
    update event_sinks
    set attempts = attempts + 1, failing_since = coalesce(failing_since, now()), last_error = ${failure.error},
      next_attempt_at = now() + ${failure.waitMs} * interval '1 millisecond', lease_token = null, lease_until = null
    where id = ${failure.sink.id} and lease_token = ${failure.sink.token}
  `;
}

/**
 * Puts an event among the dead letters and goes past it, in one statement. It inherits a replay that is under way for its
 * aggregate, behind which it queues. False when the lease is lost.
 */
export async function buryEvent(
  db: Queryable,
  burial: { readonly sink: ClaimedSink; readonly due: DueEvent; readonly attempts: number; readonly error: string },
): Promise<boolean> {
  const { sink, due } = burial;
  const { id: eventId, aggregateId } = due.event;
  const rows = await db`
    with mine as (
      update event_sinks
      set position = greatest(position, ${due.position}), attempts = 0
      where id = ${sink.id} and lease_token = ${sink.token} and state = 'active'
      returning id
    )
    insert into event_dead_letters (sink_id, position, event_id, aggregate_id, attempts, last_error, replay_at)
    select mine.id, ${due.position}, ${eventId}, ${aggregateId}, ${burial.attempts}, ${burial.error},
      (select max(d.replay_at) from event_dead_letters d where d.sink_id = mine.id and d.aggregate_id = ${aggregateId})
    from mine
    returning position
  `;
  return rows.length > 0;
}

/** A replay failed for good: it, and what queues behind it in its aggregate, wait for the next word of an operator. */
export async function endReplay(
  db: Queryable,
  burial: { readonly sink: ClaimedSink; readonly due: DueEvent; readonly attempts: number; readonly error: string },
): Promise<boolean> {
  const { sink, due } = burial;
  const rows = await db`
    with mine as (
      update event_sinks set attempts = 0
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

/** Nothing is left to do for now, or the process stops: the next round may begin at once, here or elsewhere. */
export async function releaseSink(db: Queryable, sink: ClaimedSink): Promise<void> {
  await db`
    update event_sinks set lease_token = null, lease_until = null
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
