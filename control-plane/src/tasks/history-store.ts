import type { PhaseEvent, TaskKind } from "@hostler/shared/tasks.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import type { StoredResult } from "./open-receipt.ts";

export interface EndedTask {
  readonly taskId: string;
  readonly state: "succeeded" | "failed" | "cancelled";
  readonly outcome: unknown;
  readonly resultJws: string | null;
  /** Why nobody tries it again by itself; null for every ordinary end. */
  readonly deadReason: string | null;
}

/** Ends live tasks: out of the live table and into the history of the day, in one statement. */
export async function moveToHistory(tx: Tx, ended: readonly EndedTask[]): Promise<void> {
  await tx`
    with given as (
      select *
      from jsonb_to_recordset(${tx.json(ended as never)}) as given ("taskId" text, state text, outcome jsonb, "resultJws" text, "deadReason" text)
      -- PostgreSQL takes JSON for a hundred rows, and would read the whole table for them if it was small when it planned.
      limit ${ended.length}
    ), gone as (
      delete from tasks t
      using given
      where t.id = given."taskId"
      returning t.*, given.state as end_state, given.outcome, given."resultJws", given."deadReason"
    )
    insert into task_history (id, node_id, operation_id, target_id, kind, state, params, params_digest, fence, seq, attempt, failures, crashes,
      grant_digest, outcome, result_jws, dead_reason, created_at)
    select id, node_id, operation_id, target_id, kind, end_state, params, params_digest, fence, seq, attempt, failures, crashes,
      grant_digest, outcome, "resultJws", "deadReason", created_at
    from gone
  `;
}

export interface PastTask {
  readonly id: string;
  readonly nodeId: string;
  readonly state: EndedTask["state"];
  readonly resultJws: string | null;
}

export async function findPastTasks(db: Queryable, ids: readonly string[]): Promise<PastTask[]> {
  return await db<PastTask[]>`
    select id, node_id as "nodeId", state, result_jws as "resultJws"
    from task_history
    where id = any(${[...ids]})
  `;
}

/** Nodes on which the operation was tried, those of its live task among them. */
export async function listTriedNodes(db: Queryable, operationId: string): Promise<string[]> {
  const rows = await db<{ nodeId: string }[]>`
    select node_id as "nodeId" from task_history where operation_id = ${operationId}
    union
    select node_id from tasks where operation_id = ${operationId}
  `;
  return rows.map((row) => row.nodeId);
}

export interface PhaseReport {
  readonly taskId: string;
  readonly attempt: number;
  readonly events: readonly PhaseEvent[];
}

/**
 * One row for each report that tells of anything. One that is sent again because its answer was lost is stored again; readers go by
 * the events' numbers.
 */
export async function insertPhaseReports(tx: Tx, reports: readonly PhaseReport[]): Promise<void> {
  const telling = reports.filter(({ events }) => events.length > 0);
  if (telling.length === 0) return;
  const rows = telling.map(({ taskId, attempt, events }) => ({
    taskId,
    attempt,
    first: events[0]?.seq ?? 0,
    last: events.at(-1)?.seq ?? 0,
    events,
  }));
  await tx`
    insert into phase_reports (task_id, attempt, seq_first, seq_last, events)
    select "taskId", attempt, first, last, events
    from jsonb_to_recordset(${tx.json(rows)}) as given ("taskId" text, attempt int, first int, last int, events jsonb)
  `;
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

const EVENTS_SHOWN_MAX = 1000;

/** Every event of the operation's newest task, oldest first, each once. */
export async function readPhaseEvents(
  db: Queryable,
  operationId: string,
): Promise<{ readonly kind: TaskKind | null; readonly events: readonly StoredPhaseEvent[] }> {
  const [task] = await db<{ id: string; kind: TaskKind }[]>`
    select id, kind, created_at from tasks where operation_id = ${operationId}
    union all
    select id, kind, created_at from task_history where operation_id = ${operationId}
    order by created_at desc
    limit 1
  `;
  if (task === undefined) return { kind: null, events: [] };
  const events = await db<StoredPhaseEvent[]>`
    select distinct on (r.attempt, e.seq) r.attempt, e.seq, e.phase, e.direction, e.status, e.attempt as "phaseAttempt", e.at,
      e."durationMs", e.message
    from phase_reports r
    cross join lateral jsonb_to_recordset(r.events) as e (seq int, phase text, direction text, status text, attempt int, at timestamptz,
      "durationMs" int, message text)
    where r.task_id = ${task.id}
    order by r.attempt, e.seq, r.received_at
    limit ${EVENTS_SHOWN_MAX}
  `;
  return { kind: task.kind, events };
}

export interface DeadTask {
  readonly id: string;
  readonly nodeId: string;
  readonly kind: TaskKind;
  readonly targetId: string;
  readonly operationId: string | null;
  readonly reason: string;
  readonly attempt: number;
  readonly endedAt: Date;
  readonly redrivenAt: Date | null;
}

/** Tasks that nobody tries again by itself, newest first, below the id `after`. */
export async function listDeadTasks(
  db: Queryable,
  page: { readonly after: string | null; readonly limit: number },
): Promise<DeadTask[]> {
  return await db<DeadTask[]>`
    select ${deadColumns(db)}
    from task_history
    where dead_reason is not null and (${page.after}::text is null or id < ${page.after})
    order by id desc
    limit ${page.limit}
  `;
}

export async function findDeadTask(db: Queryable, id: string): Promise<DeadTask | undefined> {
  const [row] = await db<DeadTask[]>`
    select ${deadColumns(db)} from task_history where id = ${id} and dead_reason is not null
  `;
  return row;
}

export async function noteRedriven(db: Queryable, id: string): Promise<void> {
  await db`update task_history set redriven_at = now() where id = ${id} and dead_reason is not null`;
}

function deadColumns(db: Queryable) {
  return db`id, node_id as "nodeId", kind, target_id as "targetId", operation_id as "operationId", dead_reason as reason, attempt,
    ended_at as "endedAt", redriven_at as "redrivenAt"`;
}

/** A slice leaves few hosts in its life. */
const ENDS_SHOWN_MAX = 20;

/** Signed results that say what was given back of the slice, newest first. */
export async function listSliceEnds(db: Queryable, allocationId: string): Promise<StoredResult[]> {
  return await db<StoredResult[]>`
    select id as "taskId", kind, node_id as "nodeId", target_id as "allocationId", ended_at as "endedAt", result_jws as "resultJws"
    from task_history
    where target_id = ${allocationId} and result_jws is not null
      and (kind in ('slice.vm_release', 'slice.remove') or kind = 'slice.vm_provision' and state <> 'succeeded')
    order by ended_at desc
    limit ${ENDS_SHOWN_MAX}
  `;
}
