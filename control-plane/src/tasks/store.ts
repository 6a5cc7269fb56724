import type { PhaseEvent, TaskKind } from "@hostler/shared/tasks.ts";
import type { TaskState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export async function raiseDesiredRevision(tx: Tx, nodeId: string): Promise<string> {
  const [row] = await tx<{ revision: string }[]>`
    update nodes
    set desired_rev = desired_rev + 1
    where id = ${nodeId}
    returning desired_rev as revision
  `;
  if (row === undefined) throw new Error(`there is no node ${nodeId}`);
  return row.revision;
}

export async function insertTask(
  tx: Tx,
  task: {
    readonly id: string;
    readonly nodeId: string;
    readonly operationId: string | null;
    readonly targetId: string;
    readonly kind: TaskKind;
    readonly params: string;
    readonly paramsDigest: string;
    readonly revision: string;
    readonly expiresInMs: number;
  },
): Promise<void> {
  await tx`
    insert into tasks (id, node_id, operation_id, target_id, kind, state, params, params_digest, revision, expires_at)
    values (${task.id}, ${task.nodeId}, ${task.operationId}, ${task.targetId}, ${task.kind}, 'ready', ${task.params}, ${task.paramsDigest},
      ${task.revision}, now() + make_interval(secs => ${task.expiresInMs / 1000}))
  `;
}

export interface ClaimedTask {
  readonly id: string;
  readonly kind: TaskKind;
  readonly params: string;
  readonly paramsDigest: string;
  readonly fence: string;
  readonly attempt: number;
  readonly seq: string;
  readonly expiresAt: Date;
}

/** Takes up to `limit` ready tasks of the node, oldest first: a new fence, a lease in database time, the next sequence numbers. */
export async function claimTasks(
  db: Queryable,
  claim: { readonly nodeId: string; readonly limit: number; readonly leaseMs: number },
): Promise<ClaimedTask[]> {
  return await db<ClaimedTask[]>`
    with chosen as (
      select id, row_number() over (order by created_at, id) as place
      from (
        select id, created_at
        from tasks
        where node_id = ${claim.nodeId} and state = 'ready' and expires_at > now()
        order by created_at, id
        limit ${claim.limit}
        for update skip locked
      ) as ready
    ), numbered as (
      update nodes
      set task_seq = task_seq + (select count(*) from chosen)
      where id = ${claim.nodeId} and exists (select from chosen)
      returning task_seq - (select count(*) from chosen) as base
    )
    update tasks t
    set state = 'leased', fence = nextval('fence_seq'), lease_until = now() + make_interval(secs => ${claim.leaseMs / 1000}),
      attempt = attempt + 1, seq = numbered.base + chosen.place, grant_digest = null, updated_at = now()
    from chosen, numbered
    where t.id = chosen.id
    returning t.id, t.kind, t.params, t.params_digest as "paramsDigest", t.fence::text, t.attempt, t.seq::text, t.expires_at as "expiresAt"
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

export interface Held {
  readonly taskId: string;
  readonly fence: string;
}

/** Prolongs the leases that the node still holds under these fences; what does not come back is not its any more. */
export async function renewLeases(
  db: Queryable,
  renewal: { readonly nodeId: string; readonly held: readonly Held[]; readonly leaseMs: number },
): Promise<{ readonly taskId: string; readonly cancelRequested: boolean }[]> {
  return await db<{ taskId: string; cancelRequested: boolean }[]>`
    update tasks t
    set lease_until = now() + make_interval(secs => ${renewal.leaseMs / 1000})
    from unnest(${renewal.held.map((held) => held.taskId)}::text[], ${renewal.held.map((held) => held.fence)}::bigint[]) as held (id, fence)
    where t.id = held.id and t.fence = held.fence and t.node_id = ${renewal.nodeId} and t.state = 'leased'
    returning t.id as "taskId", t.cancel_requested as "cancelRequested"
  `;
}

/**
 * A restarted agent holds only what it lists: the node's other leases that its former self held are free again at once, so
 * that it resumes without waiting for them to end. The next grant has a higher fence, so a former self that still lives is refused.
 */
export async function releaseForgottenLeases(tx: Tx, nodeId: string, stillHeld: readonly string[]): Promise<number> {
  const rows = await tx`
    update tasks
    set state = 'ready', lease_until = null, updated_at = now()
    where node_id = ${nodeId} and state = 'leased' and not (id = any(${[...stillHeld]}))
    returning id
  `;
  return rows.length;
}

/** Nodes that have something to take or to stop; both indexes are as small as what is in progress. */
export async function findWaitingNodes(db: Queryable): Promise<string[]> {
  const rows = await db<{ nodeId: string }[]>`
    select node_id as "nodeId" from tasks where state = 'ready'
    union
    select node_id from tasks where state = 'leased' and cancel_requested
  `;
  return rows.map((row) => row.nodeId);
}

export interface NodeProgress {
  readonly desiredRevision: string;
  readonly agentInstance: string | null;
  /** Tasks that wait for it. */
  readonly ready: number;
  /** Its newest start, and whether that was used. */
  readonly session: number;
  readonly isSessionConfirmed: boolean;
  /** Generation of its newest certificate. */
  readonly certificate: number;
  /** Of the slices that it last told of; null when a fresh list is wanted whatever it has. */
  readonly slicesDigest: string | null;
}

export async function readNodeProgress(db: Queryable, nodeId: string): Promise<NodeProgress | undefined> {
  const [row] = await db<(Omit<NodeProgress, "session"> & { session: string })[]>`
    select n.desired_rev as "desiredRevision", l.agent_instance as "agentInstance", n.session::text,
      n.session_confirmed as "isSessionConfirmed",
      (select count(*)::int from tasks t where t.node_id = n.id and t.state = 'ready' and t.expires_at > now()) as ready,
      (select coalesce(max(generation), 0) from node_certificates c where c.node_id = n.id) as certificate,
      case when not exists (
        select from slice_findings f where f.node_id = n.id and f.resolved_at is null and f.due_at <= now()
      ) then s.digest end as "slicesDigest"
    from nodes n
    left join node_liveness l on l.node_id = n.id
    left join node_slices s on s.node_id = n.id
    where n.id = ${nodeId}
  `;
  return row === undefined ? undefined : { ...row, session: Number(row.session) };
}

export interface TaskRow {
  readonly id: string;
  readonly nodeId: string;
  readonly operationId: string | null;
  readonly targetId: string;
  readonly kind: TaskKind;
  readonly state: TaskState;
  readonly fence: string;
  readonly attempt: number;
  readonly grantDigest: string | null;
  readonly cancelRequested: boolean;
  readonly resultJws: string | null;
}

export async function lockTask(tx: Tx, taskId: string): Promise<TaskRow | undefined> {
  const [row] = await tx<TaskRow[]>`
    select id, node_id as "nodeId", operation_id as "operationId", target_id as "targetId", kind, state, fence::text, attempt,
      grant_digest as "grantDigest", cancel_requested as "cancelRequested", result_jws as "resultJws"
    from tasks
    where id = ${taskId}
    for update
  `;
  return row;
}

export async function insertPhaseEvents(
  tx: Tx,
  task: { readonly id: string; readonly attempt: number },
  events: readonly PhaseEvent[],
): Promise<void> {
  const rows = events.map((event) => ({
    task_id: task.id,
    attempt: task.attempt,
    seq: event.seq,
    phase: event.phase,
    direction: event.direction,
    status: event.status,
    phase_attempt: event.attempt,
    at: event.at,
    duration_ms: event.durationMs,
    message: event.message,
  }));
  if (rows.length > 0) await tx`insert into phase_events ${tx(rows)} on conflict do nothing`;
}

export async function extendLease(tx: Tx, taskId: string, leaseMs: number): Promise<void> {
  await tx`update tasks set lease_until = now() + make_interval(secs => ${leaseMs / 1000}) where id = ${taskId}`;
}

/** Ends a task, or puts it back for another attempt when `state` is `ready`. */
export async function settleTask(
  tx: Tx,
  settlement: {
    readonly taskId: string;
    readonly state: TaskState;
    readonly outcome: unknown;
    readonly resultJws: string | null;
  },
): Promise<void> {
  await tx`
    update tasks
    set state = ${settlement.state}, lease_until = null, outcome = ${tx.json((settlement.outcome ?? null) as never)}, result_jws = ${settlement.resultJws},
      updated_at = now()
    where id = ${settlement.taskId}
  `;
}

/** Asks the holder of a leased task to stop; a task that nobody holds is cancelled at once. */
export async function cancelTask(
  tx: Tx,
  operationId: string,
): Promise<{ readonly taskId: string; readonly nodeId: string; readonly state: TaskState } | undefined> {
  const [row] = await tx<{ taskId: string; nodeId: string; state: TaskState }[]>`
    update tasks
    set cancel_requested = true, state = case when state = 'ready' and attempt = 0 then 'cancelled' else state end, updated_at = now()
    where operation_id = ${operationId} and state in ('ready', 'leased')
    returning id as "taskId", node_id as "nodeId", state
  `;
  return row;
}

/** Leases that ended by the database's clock. */
export async function lockLapsedLeases(tx: Tx, limit: number): Promise<TaskRow[]> {
  return await tx<TaskRow[]>`
    select id, node_id as "nodeId", operation_id as "operationId", target_id as "targetId", kind, state, fence::text, attempt,
      grant_digest as "grantDigest", cancel_requested as "cancelRequested", result_jws as "resultJws"
    from tasks
    where state = 'leased' and lease_until < now()
    order by lease_until
    limit ${limit}
    for update skip locked
  `;
}

/** Tasks that their node did not pick up in time. */
export async function lockExpiredTasks(tx: Tx, limit: number): Promise<TaskRow[]> {
  return await tx<TaskRow[]>`
    select id, node_id as "nodeId", operation_id as "operationId", target_id as "targetId", kind, state, fence::text, attempt,
      grant_digest as "grantDigest", cancel_requested as "cancelRequested", result_jws as "resultJws"
    from tasks
    where state = 'ready' and expires_at < now()
    order by expires_at
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

export interface StoredPhaseEvent {
  readonly attempt: number;
  readonly seq: number;
  readonly phase: string;
  readonly direction: "apply" | "undo";
  readonly status: PhaseEvent["status"];
  readonly phaseAttempt: number;
  readonly at: Date;
  readonly durationMs: number | null;
  readonly message: string | null;
}

/** Every event of the operation's task, oldest first. */
export async function readPhaseEvents(
  db: Queryable,
  operationId: string,
): Promise<{ readonly kind: TaskKind | null; readonly events: readonly StoredPhaseEvent[] }> {
  const [task] = await db<
    { id: string; kind: TaskKind }[]
  >`select id, kind from tasks where operation_id = ${operationId} order by created_at desc limit 1`;
  if (task === undefined) return { kind: null, events: [] };
  const events = await db<StoredPhaseEvent[]>`
    select attempt, seq, phase, direction, status, phase_attempt as "phaseAttempt", at, duration_ms as "durationMs", message
    from phase_events
    where task_id = ${task.id}
    order by attempt, seq
    limit 1000
  `;
  return { kind: task.kind, events };
}
