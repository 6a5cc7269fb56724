import type { CommandRecord } from "@hostler/shared/command-records.ts";
import type { PhaseEvent, TaskFailure } from "@hostler/shared/tasks.ts";
import type { Queryable } from "../db/sql.ts";

export interface LoggedTask {
  readonly id: string;
  readonly nodeId: string;
  readonly kind: string;
  readonly targetId: string;
  readonly operationId: string | null;
  readonly state: "ready" | "leased" | "succeeded" | "failed" | "cancelled";
  readonly attempt: number;
  readonly failure: Pick<TaskFailure, "code" | "class" | "phase" | "message"> | null;
  readonly deadReason: string | null;
  readonly createdAt: Date;
  readonly endedAt: Date | null;
}

interface Page {
  readonly after: string | null;
  readonly limit: number;
}

/** Newest first, below the id `after`: what the node has in hand, and what failed there. */
export async function listTasksOfNode(db: Queryable, nodeId: string, page: Page): Promise<LoggedTask[]> {
  return await db<LoggedTask[]>`
    (select ${liveColumns(db)} from tasks where node_id = ${nodeId} and ${isBelow(db, page)} order by id desc limit ${page.limit})
    union all
    (
      select ${pastColumns(db)} from task_history
      where node_id = ${nodeId} and state = 'failed' and ${isBelow(db, page)}
      order by id desc
      limit ${page.limit}
    )
    order by id desc
    limit ${page.limit}
  `;
}

/** Newest first, below the id `after`: everything that nodes were asked to do to the slice. */
export async function listTasksOfAllocation(db: Queryable, allocationId: string, page: Page): Promise<LoggedTask[]> {
  return await db<LoggedTask[]>`
    select ${liveColumns(db)} from tasks where target_id = ${allocationId} and ${isBelow(db, page)}
    union all
    select ${pastColumns(db)} from task_history where target_id = ${allocationId} and ${isBelow(db, page)}
    order by id desc
    limit ${page.limit}
  `;
}

export async function findLoggedTask(db: Queryable, id: string): Promise<LoggedTask | undefined> {
  const [task] = await db<LoggedTask[]>`
    select ${liveColumns(db)} from tasks where id = ${id}
    union all
    select ${pastColumns(db)} from task_history where id = ${id}
    limit 1
  `;
  return task;
}

export interface LoggedEvent {
  readonly grant: number;
  readonly phase: string;
  readonly direction: PhaseEvent["direction"];
  readonly status: PhaseEvent["status"];
  readonly attempt: number;
  readonly at: Date;
  readonly durationMs: number | null;
  readonly message: string | null;
  readonly commands: readonly CommandRecord[] | null;
}

const EVENTS_SHOWN_MAX = 1000;

/** The last events of the task, oldest first, each once, with the programs that were told with them. */
export async function readLoggedEvents(db: Queryable, taskId: string): Promise<LoggedEvent[]> {
  const newestFirst = await db<LoggedEvent[]>`
    select distinct on (r.attempt, e.seq) r.attempt as grant, e.phase, e.direction, e.status, e.attempt, e.at, e."durationMs", e.message,
      e.commands
    from phase_reports r
    cross join lateral jsonb_to_recordset(r.events) as e (seq int, phase text, direction text, status text, attempt int, at timestamptz,
      "durationMs" int, message text, commands jsonb)
    where r.task_id = ${taskId}
    order by r.attempt desc, e.seq desc, r.received_at
    limit ${EVENTS_SHOWN_MAX}
  `;
  return newestFirst.toReversed();
}

function isBelow(db: Queryable, { after }: Page) {
  return db`(${after}::text is null or id < ${after})`;
}

function liveColumns(db: Queryable) {
  return db`id, node_id as "nodeId", kind, target_id as "targetId", operation_id as "operationId", state, attempt, null::jsonb as failure,
    null::text as "deadReason", created_at as "createdAt", null::timestamptz as "endedAt"`;
}

function pastColumns(db: Queryable) {
  return db`id, node_id as "nodeId", kind, target_id as "targetId", operation_id as "operationId", state, attempt,
    nullif(outcome -> 'failure', 'null') as failure, dead_reason as "deadReason", created_at as "createdAt", ended_at as "endedAt"`;
}
