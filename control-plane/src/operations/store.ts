import type { Operation } from "@hostler/shared/api/common.ts";
import { ERRORS, isErrorCode } from "@hostler/shared/errors.ts";
import { OPERATION_STATES, OPERATION_TRANSITIONS, sourcesOf, type OperationState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export interface NewOperation {
  readonly id: string;
  readonly kind: string;
  readonly targetId: string;
  readonly projectId: string | null;
  /** `system:<name>` for work of our own. */
  readonly scope?: string;
  readonly phasesTotal: number;
}

export async function insertOperations(tx: Tx, operations: readonly NewOperation[]): Promise<void> {
  await tx`
    insert into operations (id, kind, target_id, project_id, scope, state, phases_total)
    select id, kind, "targetId", "projectId", scope, 'pending', "phasesTotal"
    from jsonb_to_recordset(${tx.json(operations as never)}) as given (id text, kind text, "targetId" text, "projectId" text, scope text,
      "phasesTotal" int)
  `;
}

export interface OperationError {
  readonly code: string;
  readonly message: string;
  readonly phase: string | null;
}

/** How far work has come. */
export interface OperationStep {
  readonly id: string;
  /** Null: it stays what it was. */
  readonly phase: string | null;
  readonly phasesDone: number;
}

export interface OperationMove extends Partial<OperationStep> {
  readonly id: string;
  readonly target: OperationState;
  readonly error: OperationError | null;
}

/** Which state may come before which, as the database sees it. */
const SOURCES = OPERATION_STATES.flatMap((target) =>
  sourcesOf(OPERATION_TRANSITIONS, target).map((source) => ({ source, target })),
);

/** Moves operations where the table allows it, in the order of their ids; a move to the state it is in is fine and changes nothing. */
export async function moveOperations(tx: Tx, moves: readonly OperationMove[]): Promise<void> {
  await tx`
    with held as (
      select o.id, move.target, move.error, move.phase, move."phasesDone"
      from operations o
      join jsonb_to_recordset(${tx.json(moves as never)}) as move (id text, target text, error jsonb, phase text, "phasesDone" int) on move.id = o.id
      join jsonb_to_recordset(${tx.json(SOURCES)}) as allowed (source text, target text)
        on allowed.target = move.target and allowed.source = o.state
      order by o.id
      for no key update of o
    )
    update operations o
    set state = held.target, version = version + 1, error = held.error, phase = coalesce(held.phase, o.phase),
      phases_done = greatest(o.phases_done, held."phasesDone"), updated_at = now()
    from held
    where o.id = held.id
  `;
}

/** Signs of work, one of each operation: what waited runs now, and the count of finished phases only rises. */
export async function noteProgress(tx: Tx, steps: readonly OperationStep[]): Promise<void> {
  await tx`
    with held as (
      select o.id, step.phase, step."phasesDone"
      from operations o
      join jsonb_to_recordset(${tx.json(steps as never)}) as step (id text, phase text, "phasesDone" int) on step.id = o.id
      where o.state in ('pending', 'running', 'retrying')
      order by o.id
      for no key update of o
    )
    update operations o
    set state = 'running', version = version + (o.state <> 'running')::int, phases_done = greatest(o.phases_done, held."phasesDone"),
      phase = coalesce(held.phase, o.phase), updated_at = now()
    from held
    where o.id = held.id
      and (o.state <> 'running' or o.phases_done < held."phasesDone" or o.phase is distinct from coalesce(held.phase, o.phase))
  `;
}

/** Where work that is a list of steps stands. */
export async function updateOperationStep(
  tx: Tx,
  id: string,
  at: { readonly phase: string | null; readonly phasesDone: number },
): Promise<void> {
  await tx`
    update operations set phase = ${at.phase}, phases_done = ${at.phasesDone}, updated_at = now()
    where id = ${id}
  `;
}

/** Forgets operations of the system that ended; what ran them goes with them. A project's are kept. */
export async function deleteOperations(db: Queryable, ids: readonly string[]): Promise<void> {
  await db`
    delete from operations
    where id = any(${[...ids]}) and scope is not null and state in ('succeeded', 'failed', 'cancelled')
  `;
}

interface OperationRow {
  readonly id: string;
  readonly kind: string;
  readonly targetId: string;
  readonly projectId: string | null;
  readonly scope: string | null;
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
  const [operation] = await readOperationsById(db, [id]);
  return operation;
}

export async function readOperationsById(db: Queryable, ids: readonly string[]): Promise<Operation[]> {
  const rows = await db<OperationRow[]>`
    select ${operationColumns(db)}
    from operations
    where id = any(${[...ids]})
  `;
  return rows.map(viewOf);
}

export interface OperationFilter {
  /** Null lists what belongs to no project. */
  readonly projectId: string | null;
  readonly scope?: string | undefined;
  readonly state?: OperationState | undefined;
  readonly kind?: string | undefined;
  readonly targetId?: string | undefined;
}

/** Newest first, below the id `after`. */
export async function readOperations(
  db: Queryable,
  page: OperationFilter & { readonly after: string | null; readonly limit: number },
): Promise<Operation[]> {
  const { scope = null, state = null, kind = null, targetId = null } = page;
  const rows = await db<OperationRow[]>`
    select ${operationColumns(db)}
    from operations
    where ${page.projectId === null ? db`project_id is null` : db`project_id = ${page.projectId}`}
      and (${page.after}::text is null or id < ${page.after})
      and (${scope}::text is null or scope = ${scope})
      and (${state}::text is null or state = ${state})
      and (${kind}::text is null or kind = ${kind})
      and (${targetId}::text is null or target_id = ${targetId})
    order by id desc
    limit ${page.limit}
  `;
  return rows.map(viewOf);
}

function operationColumns(db: Queryable) {
  return db`id, kind, target_id as "targetId", project_id as "projectId", scope, state, version, phase,
    phases_done as "phasesDone", phases_total as "phasesTotal", error, created_at as "createdAt", updated_at as "updatedAt"`;
}

function viewOf(row: OperationRow): Operation {
  const code = row.error?.code ?? "internal";
  return {
    id: row.id,
    kind: row.kind,
    targetId: row.targetId,
    projectId: row.projectId,
    scope: row.scope,
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
