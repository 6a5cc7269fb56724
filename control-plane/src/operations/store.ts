import type { Operation } from "@hostler/shared/api/common.ts";
import { ERRORS, isErrorCode } from "@hostler/shared/errors.ts";
import { OPERATION_TRANSITIONS, sourcesOf, type OperationState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export async function insertOperation(
  tx: Tx,
  operation: {
    readonly id: string;
    readonly kind: string;
    readonly targetId: string;
    readonly projectId: string | null;
    readonly phasesTotal: number;
  },
): Promise<void> {
  await tx`
    insert into operations (id, kind, target_id, project_id, state, phases_total)
    values (${operation.id}, ${operation.kind}, ${operation.targetId}, ${operation.projectId}, 'pending', ${operation.phasesTotal})
  `;
}

export interface OperationError {
  readonly code: string;
  readonly message: string;
  readonly phase: string | null;
}

/** Moves an operation where the table allows it; a move to the state it is in is fine and changes nothing. */
export async function moveOperation(
  tx: Tx,
  id: string,
  target: OperationState,
  error: OperationError | null,
): Promise<void> {
  await tx`
    update operations
    set state = ${target}, version = version + 1, error = ${error === null ? null : tx.json({ ...error })}, updated_at = now()
    where id = ${id} and state in ${tx(sourcesOf(OPERATION_TRANSITIONS, target))}
  `;
}

/** Counts the phases whose newest event is done, from the events themselves. */
export async function updateOperationProgress(tx: Tx, operationId: string, taskId: string): Promise<void> {
  await tx`
    update operations
    set phases_done = seen.done, phase = seen.phase, updated_at = now()
    from (
      select count(*) filter (where direction = 'apply' and status in ('done', 'not_needed'))::int as done,
        (array_agg(phase order by attempt desc, seq desc))[1] as phase
      from (
        select distinct on (phase, direction) phase, direction, status, attempt, seq
        from phase_events
        where task_id = ${taskId}
        order by phase, direction, attempt desc, seq desc
      ) as newest
    ) as seen
    where operations.id = ${operationId}
  `;
}

interface OperationRow {
  readonly id: string;
  readonly kind: string;
  readonly targetId: string;
  readonly projectId: string | null;
  readonly state: OperationState;
  readonly version: number;
  readonly phase: string | null;
  readonly phasesDone: number;
  readonly phasesTotal: number;
  readonly error: OperationError | null;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

export async function readOperation(db: Queryable, id: string): Promise<Operation | undefined> {
  const [row] = await db<OperationRow[]>`
    select id, kind, target_id as "targetId", project_id as "projectId", state, version, phase, phases_done as "phasesDone",
      phases_total as "phasesTotal", error, created_at as "createdAt", updated_at as "updatedAt"
    from operations
    where id = ${id}
  `;
  return row === undefined ? undefined : viewOf(row);
}

function viewOf(row: OperationRow): Operation {
  const code = row.error?.code ?? "internal";
  return {
    id: row.id,
    kind: row.kind,
    targetId: row.targetId,
    projectId: row.projectId,
    state: row.state,
    progress: row.state === "succeeded" ? 1 : row.phasesTotal === 0 ? 0 : Math.min(1, row.phasesDone / row.phasesTotal),
    phase: row.phase,
    error:
      row.error === null
        ? null
        : { ...row.error, remedy: isErrorCode(code) ? ERRORS[code].remedy : ERRORS.internal.remedy },
    createdAt: row.createdAt.toISOString(),
    updatedAt: row.updatedAt.toISOString(),
  };
}
