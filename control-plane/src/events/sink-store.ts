import type { DeadLetter, Webhook } from "@hostler/shared/api/events.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import { eventColumns, toPlacedEvent, type EventRow, type EventScope } from "./store.ts";

/** Behind more than this is said as this: counting on would read a large part of the table for each listing. */
const BEHIND_MAX = 1000;

export interface SinkRow {
  readonly id: string;
  readonly version: number;
  readonly state: "active" | "disabled";
  readonly projectId: string | null;
  readonly url: string;
  readonly secretEncrypted: Uint8Array;
}

interface WebhookRow extends Omit<Webhook, "createdAt"> {
  createdAt: Date;
}

export async function insertSink(
  tx: Tx,
  sink: {
    readonly id: string;
    readonly projectId: string | null;
    readonly url: string;
    readonly secretEncrypted: Buffer;
    readonly topics: readonly string[];
    readonly createdBy: string;
  },
): Promise<void> {
  await tx`
    insert into event_sinks (id, kind, project_id, url, secret_encrypted, topics, state, position, created_by)
    values (${sink.id}, 'webhook', ${sink.projectId}, ${sink.url}, ${sink.secretEncrypted}, ${sink.topics as string[]}, 'active',
      (select coalesce(max(position), 0) from event_positions), ${sink.createdBy})
  `;
}

/** How many webhooks there are in one project, or of the platform; the row lock of nothing, so two at once may both pass. */
export async function countSinks(db: Queryable, projectId: string | null): Promise<number> {
  const [row] = await db<{ count: number }[]>`
    select count(*)::int as count
    from event_sinks
    where project_id is not distinct from ${projectId} and state <> 'removed'
  `;
  return row?.count ?? 0;
}

/** Webhooks of exactly one project, or exactly those of the platform. */
export async function readWebhooks(
  db: Queryable,
  page: {
    readonly projectId: string | null;
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
        where p.position > s.position and (s.project_id is null or p.project_id = s.project_id)
        limit ${BEHIND_MAX}
      ) as waiting) as behind,
      (select count(*)::int from event_dead_letters d where d.sink_id = s.id) as "deadLetters"
    from event_sinks s
    where s.project_id is not distinct from ${page.projectId}
      and s.state <> 'removed'
      and (${page.id}::text is null or s.id = ${page.id})
      and (${page.after}::text is null or s.id > ${page.after})
    order by s.id
    limit ${page.limit}
  `;
  return rows.map((row) => ({ ...row, createdAt: row.createdAt.toISOString() }));
}

/** The sink of that project or of the platform, locked until the transaction ends; undefined when there is none. */
export async function lockSink(tx: Tx, id: string, projectId: string | null): Promise<SinkRow | undefined> {
  const [row] = await tx<SinkRow[]>`
    select ${sinkColumns(tx)}
    from event_sinks s
    where s.id = ${id} and s.project_id is not distinct from ${projectId} and s.state <> 'removed'
    for update
  `;
  return row;
}

export async function readSink(db: Queryable, id: string, projectId: string | null): Promise<SinkRow | undefined> {
  const [row] = await db<SinkRow[]>`
    select ${sinkColumns(db)}
    from event_sinks s
    where s.id = ${id} and s.project_id is not distinct from ${projectId} and s.state <> 'removed'
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
    set state = ${move.to}, reason = ${move.reason}, version = version + 1, attempts = 0, failing_since = null,
      next_attempt_at = now(), lease_token = null, lease_until = null
    where id = ${move.id} and state = any(${move.from as string[]})
    returning version
  `;
  return row?.version;
}

/** A removed webhook's secret is of no use to anybody, and its dead letters neither. */
export async function emptySink(tx: Tx, id: string): Promise<void> {
  await tx`delete from event_dead_letters where sink_id = ${id}`;
  await tx`update event_sinks set secret_encrypted = '' where id = ${id}`;
}

/** Marks all dead letters to go out again; resolves with how many. */
export async function replayDeadLetters(tx: Tx, sinkId: string): Promise<number> {
  const rows = await tx`
    update event_dead_letters set replay_at = now(), attempts = 0
    where sink_id = ${sinkId}
    returning position
  `;
  await tx`update event_sinks set attempts = 0, next_attempt_at = now() where id = ${sinkId}`;
  return rows.length;
}

/**
 * Puts the sink back to before the first event of that time or later, and takes away the dead letters that come again by that.
 * The one step backwards that a position takes, by an operator's word; a round that is under way loses its lease.
 */
export async function rewindSink(tx: Tx, sinkId: string, since: string): Promise<void> {
  await tx`
    with target as (
      select min(p.position) - 1 as position
      from events e
      join event_positions p on p.event_seq = e.seq
      where e.at >= ${since}::timestamptz
    ), forgotten as (
      delete from event_dead_letters d using target t where d.sink_id = ${sinkId} and d.position > t.position
    )
    update event_sinks s
    set position = least(s.position, t.position), attempts = 0, next_attempt_at = now(), lease_token = null, lease_until = null
    from target t
    where s.id = ${sinkId} and t.position is not null
  `;
}

export async function readDeadLetters(
  db: Queryable,
  page: { readonly sinkId: string; readonly after: number; readonly limit: number },
): Promise<{ position: number; letter: DeadLetter }[]> {
  const rows = await db<(EventRow & { attempts: number; lastError: string; deadAt: Date; isReplaying: boolean })[]>`
    select ${eventColumns(db)}, d.attempts, d.last_error as "lastError", d.at as "deadAt",
      d.replay_at is not null as "isReplaying"
    from event_dead_letters d
    join event_positions p on p.position = d.position
    join events e on e.seq = p.event_seq
    where d.sink_id = ${page.sinkId} and d.position > ${page.after}
    order by d.position
    limit ${page.limit}
  `;
  return rows.map((row) => {
    const { position, event } = toPlacedEvent(row);
    const { attempts, lastError, isReplaying } = row;
    return { position, letter: { event, attempts, lastError, at: row.deadAt.toISOString(), isReplaying } };
  });
}

export function scopeOf(sink: Pick<SinkRow, "projectId">): EventScope {
  return sink.projectId === null ? "platform" : { projectId: sink.projectId };
}

function sinkColumns(db: Queryable) {
  return db`s.id, s.version, s.state, s.project_id as "projectId", s.url, s.secret_encrypted as "secretEncrypted"`;
}
