import type { TaskKind } from "@hostler/shared/tasks.ts";
import type postgres from "postgres";
import type { Queryable, Tx } from "../db/sql.ts";

/**
 * The live tasks: those that wait for their node and those that one holds. The table stays as small as the work in progress;
 * what ends goes to `history-store.ts` in the same statement.
 */
export interface TaskRow {
  readonly id: string;
  readonly nodeId: string;
  readonly operationId: string | null;
  readonly targetId: string;
  readonly kind: TaskKind;
  readonly state: "ready" | "leased";
  readonly params: string;
  readonly fence: string;
  readonly attempt: number;
  /** Answers that it failed in passing. */
  readonly failures: number;
  /** Times in a row that its holder was lost in `crashPhase`. */
  readonly crashes: number;
  readonly crashPhase: string | null;
  /** The newest phase that its holder told of. */
  readonly phase: string | null;
  readonly grantDigest: string | null;
  readonly cancelRequested: boolean;
}

export interface NewTask {
  readonly id: string;
  readonly nodeId: string;
  readonly operationId: string | null;
  readonly targetId: string;
  readonly kind: TaskKind;
  readonly priority: number;
  readonly params: string;
  readonly paramsDigest: string;
  readonly expiresInMs: number;
  readonly failures: number;
}

/** Writes tasks and the audit row of each. */
export async function insertTasks(tx: Tx, tasks: readonly NewTask[]): Promise<void> {
  await tx`
    with given as (
      select *
      from jsonb_to_recordset(${tx.json(tasks as never)}) as given (id text, "nodeId" text, "operationId" text, "targetId" text, kind text,
        priority smallint, params text, "paramsDigest" text, "expiresInMs" float8, failures int)
    ), made as (
      insert into tasks (id, node_id, operation_id, target_id, kind, state, priority, params, params_digest, expires_at, failures)
      select id, "nodeId", "operationId", "targetId", kind, 'ready', priority, params, "paramsDigest",
        now() + make_interval(secs => "expiresInMs" / 1000), failures
      from given
      returning id, node_id, kind, target_id, params_digest
    )
    insert into audit_log (actor, action, target_id, target_version, outcome, request_id, detail)
    select 'system:tasks', 'task.enqueued', id, null, 'succeeded', null,
      -- The params may hold what a tenant keeps secret; their digest says which they were.
      jsonb_build_object('nodeId', node_id, 'kind', kind, 'about', target_id, 'paramsDigest', params_digest)
    from made
  `;
}

/** Holds the rows of the tasks that are live, in the order of their ids, so that two batches never wait for each other. */
export async function lockTasks(tx: Tx, ids: readonly string[]): Promise<TaskRow[]> {
  return await tx<TaskRow[]>`
    select ${columns(tx)}
    from tasks
    where id = any(${[...ids]})
    order by id
    for update
  `;
}

export async function lockTasksAbout(tx: Tx, targetIds: readonly string[]): Promise<void> {
  await tx`select from tasks where target_id = any(${[...targetIds]}) order by id for update`;
}

export async function findTasks(db: Queryable, ids: readonly string[]): Promise<TaskRow[]> {
  return await db<TaskRow[]>`select ${columns(db)} from tasks where id = any(${[...ids]})`;
}

export interface Held {
  readonly taskId: string;
  readonly fence: string;
}

/** A lease that has lost no more of its time is left alone: a third of the agent's own margin, so it still ends there first. */
const FRESH_SHARE = 1 / 30;

export interface HeldBy extends Held {
  readonly nodeId: string;
}

export interface StillHeld extends Held {
  readonly cancelRequested: boolean;
}

/**
 * Prolongs the leases that nodes still hold under these fences; what does not come back is not theirs any more. A host that tells
 * of its progress all the time has just renewed: its rows are read, not written, and nobody waits for them.
 */
export async function renewLeases(db: Queryable, held: readonly HeldBy[], leaseMs: number): Promise<StillHeld[]> {
  const freshSeconds = (leaseMs / 1000) * (1 - FRESH_SHARE);
  return await db<StillHeld[]>`
    with ours as (
      select t.id, t.fence, t.cancel_requested, t.lease_until
      from tasks t
      join ${givenHeld(db, held)} on held.id = t.id and held.node_id = t.node_id and held.fence = t.fence
      where t.state = 'leased'
    ), due as (
      select t.id
      from tasks t
      join ours on ours.id = t.id and ours.fence = t.fence
      where t.state = 'leased' and ours.lease_until < now() + make_interval(secs => ${freshSeconds})
      order by t.id
      for no key update of t
    ), renewed as (
      update tasks t
      set lease_until = now() + make_interval(secs => ${leaseMs / 1000})
      from due
      where t.id = due.id
      returning t.id
    )
    select id as "taskId", fence::text, cancel_requested as "cancelRequested"
    from ours
    where lease_until >= now() + make_interval(secs => ${freshSeconds}) or id in (select id from renewed)
  `;
}

/** Which of them nodes still hold, without renewing: nobody waits for a row, and no row for it. */
export async function readHeld(db: Queryable, held: readonly HeldBy[]): Promise<StillHeld[]> {
  return await db<StillHeld[]>`
    select t.id as "taskId", t.fence::text, t.cancel_requested as "cancelRequested"
    from tasks t
    join ${givenHeld(db, held)} on held.id = t.id and held.node_id = t.node_id and held.fence = t.fence
    where t.state = 'leased'
  `;
}

function givenHeld(db: Queryable, held: readonly HeldBy[]) {
  return db`unnest(${held.map(({ taskId }) => taskId)}::text[], ${held.map(({ nodeId }) => nodeId)}::text[],
    ${held.map(({ fence }) => fence)}::bigint[]) as held (id, node_id, fence)`;
}

export interface ProgressNote {
  readonly taskId: string;
  readonly nodeId: string;
  readonly fence: string;
  /** The newest phase that it tells of; null when it only renews. */
  readonly phase: string | null;
}

/** Renews the leases of those that hold them and keeps the phase they are in. Who does not come back is stale. */
export async function noteProgress(tx: Tx, notes: readonly ProgressNote[], leaseMs: number): Promise<TaskRow[]> {
  return await tx<TaskRow[]>`
    with given as (
      select * from jsonb_to_recordset(${tx.json(notes as never)}) as given ("taskId" text, "nodeId" text, fence bigint, phase text)
      -- Not for a hundred, see moveToHistory.
      limit ${notes.length}
    ), held as (
      select t.id, given.phase
      from tasks t
      join given on t.id = given."taskId" and t.node_id = given."nodeId" and t.fence = given.fence
      where t.state = 'leased'
      order by t.id
      for update of t
    )
    update tasks
    set lease_until = now() + make_interval(secs => ${leaseMs / 1000}), phase = coalesce(held.phase, tasks.phase)
    from held
    where tasks.id = held.id
    returning ${columns(tx)}
  `;
}

/**
 * Nodes that have something to take or to stop. Reads the whole table, which is as small as what is in progress; not in the order of an
 * index, by which PostgreSQL would fetch every dead row on its own.
 */
export async function findWaitingNodes(db: Queryable): Promise<ReadonlySet<string>> {
  const [row] = await db<{ nodeIds: string[] | null }[]>`
    select array_agg(node_id) as "nodeIds"
    from tasks
    where state = 'ready' and run_at <= now() or state = 'leased' and cancel_requested
  `;
  return new Set(row?.nodeIds);
}

export interface Overdue {
  /** Leases that ended by the database's clock. */
  readonly hasLapsed: boolean;
  /** Tasks that their node did not pick up in time. */
  readonly hasExpired: boolean;
}

/** Whether there is anything to end, in one look at the whole table. */
export async function findOverdue(db: Queryable): Promise<Overdue> {
  const [row] = await db<Overdue[]>`
    select coalesce(bool_or(state = 'leased' and lease_until < now()), false) as "hasLapsed",
      coalesce(bool_or(state = 'ready' and expires_at < now()), false) as "hasExpired"
    from tasks
  `;
  return row ?? { hasLapsed: false, hasExpired: false };
}

export interface NodeProgress {
  /** The newest task that waits for it; null when none does. */
  readonly revision: string | null;
  readonly agentInstance: string | null;
  /** Tasks that wait for it. */
  readonly ready: number;
  /** The sequence of the newest task that was granted. */
  readonly seq: number;
  /** Its newest start, and whether that was used. */
  readonly session: number;
  readonly isSessionConfirmed: boolean;
  /** Generation of its newest certificate. */
  readonly certificate: number;
  /** Of the slices that it last told of; null when a fresh list is wanted whatever it has. */
  readonly slicesDigest: string | null;
}

/** Of many nodes in one round trip: every poll asks for its own when it comes. */
export async function readProgressOfNodes(
  db: Queryable,
  nodeIds: readonly string[],
): Promise<ReadonlyMap<string, NodeProgress>> {
  const rows = await db<(Omit<NodeProgress, "session" | "seq"> & { id: string; session: string; seq: string })[]>`
    select n.id, waiting.revision, l.agent_instance as "agentInstance", n.session::text, n.session_confirmed as "isSessionConfirmed",
      coalesce((select task_seq from node_sequences s where s.node_id = n.id), 0)::text as seq,
      waiting.ready, (select coalesce(max(generation), 0) from node_certificates c where c.node_id = n.id) as certificate,
      case when not exists (
        select from slice_findings f where f.node_id = n.id and f.resolved_at is null and f.due_at <= now()
      ) then s.digest end as "slicesDigest"
    from nodes n
    left join node_liveness l on l.node_id = n.id
    left join node_slices s on s.node_id = n.id
    cross join lateral (
      select count(*)::int as ready, max(revision)::text as revision
      from tasks t
      where t.node_id = n.id and t.tx >= ${liveFrom(db, db`n.id`)} and t.state = 'ready' and t.run_at <= now() and t.expires_at > now()
    ) as waiting
    where n.id = any(${[...nodeIds]})
  `;
  return new Map(rows.map(({ id, ...row }) => [id, { ...row, session: Number(row.session), seq: Number(row.seq) }]));
}

export interface Retry {
  readonly taskId: string;
  readonly delayMs: number;
  readonly failures: number;
  readonly crashes: number;
  readonly crashPhase: string | null;
}

/** Puts held tasks back for another attempt. */
export async function putBack(tx: Tx, retries: readonly Retry[]): Promise<void> {
  await tx`
    update tasks t
    set state = 'ready', lease_until = null, run_at = now() + make_interval(secs => given."delayMs" / 1000),
      failures = given.failures, crashes = given.crashes, crash_phase = given."crashPhase"
    from jsonb_to_recordset(${tx.json(retries as never)}) as given ("taskId" text, "delayMs" float8, failures int, crashes int, "crashPhase" text)
    where t.id = given."taskId" and t.state = 'leased'
  `;
}

/** Asks the holder of a task to stop. Null when the operation has no live task. */
export async function requestCancel(tx: Tx, operationId: string): Promise<TaskRow | null> {
  const [row] = await tx<TaskRow[]>`
    update tasks
    set cancel_requested = true, run_at = now()
    where operation_id = ${operationId}
    returning ${columns(tx)}
  `;
  return row ?? null;
}

/** Leases that ended by the database's clock. */
export async function lockLapsedLeases(tx: Tx, limit: number): Promise<TaskRow[]> {
  return await tx<TaskRow[]>`
    select ${columns(tx)}
    from tasks
    where state = 'leased' and lease_until < now()
    order by id
    limit ${limit}
    for update skip locked
  `;
}

/** What the node's agent held before it was started anew: its leased tasks that it does not list. */
export async function lockForgottenLeases(
  tx: Tx,
  forgotten: { readonly nodeId: string; readonly stillHeld: readonly string[] },
): Promise<TaskRow[]> {
  return await tx<TaskRow[]>`
    select ${columns(tx)}
    from tasks
    where node_id = ${forgotten.nodeId} and tx >= ${liveFrom(tx, forgotten.nodeId)} and state = 'leased' and not (id = any(${[...forgotten.stillHeld]}))
    order by id
    for update
  `;
}

/**
 * What was granted to earlier polls of the agent and never came to it, and not yet so often that it seems to be the agent who cannot
 * take it. What was granted to this poll or a later one may be on its way: the poll that says so may itself come late.
 */
export async function lockLostGrants(
  tx: Tx,
  lost: { readonly nodeId: string; readonly takenSeq: number; readonly poll: number; readonly attemptsMax: number },
): Promise<TaskRow[]> {
  return await tx<TaskRow[]>`
    select ${columns(tx)}
    from tasks
    where node_id = ${lost.nodeId} and tx >= ${liveFrom(tx, lost.nodeId)} and state = 'leased' and seq > ${lost.takenSeq} and granted_poll < ${lost.poll} and attempt < ${lost.attemptsMax}
    order by id
    for update
  `;
}

/** Tasks that their node did not pick up in time. */
export async function lockExpiredTasks(tx: Tx, limit: number): Promise<TaskRow[]> {
  return await tx<TaskRow[]>`
    select ${columns(tx)}
    from tasks
    where state = 'ready' and expires_at < now()
    order by id
    limit ${limit}
    for update skip locked
  `;
}

/** After an outage of ours no lease may end because of it. */
export async function prolongAllLeases(db: Queryable, leaseMs: number): Promise<number> {
  const rows = await db`
    update tasks
    set lease_until = greatest(lease_until, now() + make_interval(secs => ${leaseMs / 1000}))
    where state = 'leased'
    returning id
  `;
  return rows.length;
}

/**
 * Where the live tasks of the node begin, as the number of the transaction that made them. Each claim moves it on, so that nobody walks
 * over those that have ended. On a restored server, whose numbers may be lower, they may be anywhere until the first claim. `nodeId`: the
 * id itself or what stands for it outside the search, so that the index is entered here and not asked row by row.
 */
export function liveFrom(db: Queryable, nodeId: string | postgres.Fragment) {
  return db`coalesce((
    select s.live_from
    from node_sequences s
    join fence_epoch e on e.epoch = s.live_epoch
    where s.node_id = ${nodeId} and s.live_from <= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
  ), 0)`;
}

/** Named with their table, since some statements join others. */
function columns(db: Queryable) {
  return db`tasks.id, tasks.node_id as "nodeId", tasks.operation_id as "operationId", tasks.target_id as "targetId", tasks.kind, tasks.state,
    tasks.params, tasks.fence::text, tasks.attempt, tasks.failures, tasks.crashes, tasks.crash_phase as "crashPhase", tasks.phase,
    tasks.grant_digest as "grantDigest", tasks.cancel_requested as "cancelRequested"`;
}
