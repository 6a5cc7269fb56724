import type { TaskKind } from "@hostler/shared/tasks.ts";
import type { Queryable } from "../db/sql.ts";
import { liveFrom } from "./store.ts";

export interface ClaimedTask {
  readonly id: string;
  readonly nodeId: string;
  readonly kind: TaskKind;
  readonly params: string;
  readonly paramsDigest: string;
  readonly fence: string;
  readonly attempt: number;
  readonly seq: string;
  readonly revision: string;
  readonly expiresAt: Date;
}

/**
 * Takes up to `limit` waiting tasks of each node, the most urgent and then the oldest first: a fence above every one before it,
 * a lease in database time, the node's next sequence numbers. One statement for however many nodes ask. Outside of a transaction its
 * commit does not wait for the disk: nobody hears of a grant before it was saved, and that commit, which comes later in the log, does.
 * Leases count from this statement: the node counts from its poll, and a transaction may have begun before that.
 */
export async function claimTasks(
  db: Queryable,
  claims: readonly { readonly nodeId: string; readonly limit: number; readonly poll: number | null }[],
  {
    leaseMs,
    isInTransaction = false,
  }: {
    readonly leaseMs: number;
    /** The statement is one of others, whose commit is theirs. */
    readonly isInTransaction?: boolean;
  },
): Promise<ClaimedTask[]> {
  return await db<ClaimedTask[]>`
    with unhurried as materialized (
      select case when not ${isInTransaction} then set_config('synchronous_commit', 'off', true) end
    ), asked as materialized (
      select given.*, ${liveFrom(db, db`given.node_id`)} as live_from
      from unnest(${claims.map((claim) => claim.nodeId)}::text[], ${claims.map((claim) => claim.limit)}::int[],
        ${claims.map((claim) => claim.poll)}::bigint[]) as given (node_id, room, poll)
    ), chosen as (
      select asked.node_id, asked.poll, asked.live_from, ready.id,
        row_number() over (partition by asked.node_id order by ready.priority, ready.created_at, ready.id) as place
      from asked
      cross join lateral (
        select id, priority, created_at
        from tasks
        where node_id = asked.node_id and tx >= asked.live_from and state = 'ready' and run_at <= now() and expires_at > now()
        order by priority, created_at, id
        limit asked.room
        for update skip locked
      ) as ready
    ), numbered as (
      insert into node_sequences as s (node_id, task_seq, live_from, live_epoch)
      select node_id, count(*), (
          select least(min(t.tx), pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
          from tasks t
          where t.node_id = chosen.node_id and t.tx >= chosen.live_from
        ), (select e.epoch from fence_epoch e)
      from chosen
      group by node_id, live_from
      order by node_id
      on conflict (node_id) do update set task_seq = s.task_seq + excluded.task_seq, live_from = excluded.live_from,
        live_epoch = excluded.live_epoch
      returning s.node_id, s.task_seq
    ), counted as (
      select numbered.node_id, numbered.task_seq - count(*) as base
      from numbered
      join chosen on chosen.node_id = numbered.node_id
      group by numbered.node_id, numbered.task_seq
    ), epoch as (
      select fence_base() as base
    )
    update tasks t
    set state = 'leased', fence = epoch.base + nextval('fence_seq'), lease_until = statement_timestamp() + make_interval(secs => ${leaseMs / 1000}),
      attempt = attempt + 1, seq = counted.base + chosen.place, grant_digest = null, phase = null,
      granted_poll = chosen.poll
    from chosen
    join counted on counted.node_id = chosen.node_id
    cross join epoch
    cross join unhurried
    where t.id = chosen.id
    returning t.id, t.node_id as "nodeId", t.kind, t.params, t.params_digest as "paramsDigest", t.fence::text, t.attempt, t.seq::text,
      t.revision::text, t.expires_at as "expiresAt"
  `;
}

/** What each grant was signed as, with its row in the audit log, in one statement: a transaction would delay every wake-up. */
export async function saveGrants(
  db: Queryable,
  grants: readonly { readonly taskId: string; readonly fence: string; readonly digest: string }[],
): Promise<void> {
  await db`
    with granted as (
      update tasks t
      set grant_digest = given.digest
      from unnest(${grants.map((grant) => grant.taskId)}::text[], ${grants.map((grant) => grant.fence)}::bigint[],
        ${grants.map((grant) => grant.digest)}::text[]) as given (id, fence, digest)
      where t.id = given.id and t.fence = given.fence
      returning t.id, t.node_id, t.kind, t.fence, t.attempt, t.grant_digest
    )
    insert into audit_log (actor, action, target_id, target_version, outcome, request_id, detail)
    select 'system:tasks', 'task.granted', id, null, 'succeeded', null, jsonb_build_object('nodeId', node_id, 'kind', kind,
      'fence', fence::text, 'attempt', attempt, 'grantDigest', grant_digest)
    from granted
  `;
}

/** Whether a later start of the agent was heard of: nothing more is given to this one. */
export async function isSessionEnded(db: Queryable, nodeId: string, session: number): Promise<boolean> {
  const rows = await db`select from nodes where id = ${nodeId} and session_confirmed and session > ${session}`;
  return rows.length > 0;
}

/** The next sequence number of the node lies above the given one. */
export async function raiseSequenceAbove(db: Queryable, nodeId: string, seq: number): Promise<void> {
  await db`
    insert into node_sequences as s (node_id, task_seq)
    values (${nodeId}, ${seq})
    on conflict (node_id) do update set task_seq = excluded.task_seq
    where s.task_seq < excluded.task_seq
  `;
}

/**
 * An agent has seen this fence. Were ours not above it, the database would be a restored one that its history does not give away:
 * the epoch rises above the agent's. Resolves with whether it had to.
 */
export async function raiseFencesAbove(db: Queryable, fence: string): Promise<boolean> {
  // Its own statement: it may raise the epoch itself.
  const [now] = await db<{ isBelow: boolean }[]>`
    select fence_base() + (select last_value from fence_seq) < ${fence}::bigint as "isBelow"
  `;
  if (now?.isBelow !== true) return false;
  const rows = await db`
    update fence_epoch
    set epoch = (${fence}::bigint >> 40) + 1
    where epoch <= ${fence}::bigint >> 40
    returning epoch
  `;
  return rows.length === 1;
}
