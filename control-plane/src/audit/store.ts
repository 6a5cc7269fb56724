import type { AuditListEntry } from "@hostler/shared/api/audit.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import type { Change } from "./record-change.ts";

export interface AuditRow {
  readonly actor: string;
  readonly action: string;
  readonly targetId: string;
  /** Null for acts that change no state, such as a refused request or a created token. */
  readonly targetVersion: number | null;
  readonly outcome: "succeeded" | "refused";
  readonly requestId: string | null;
  readonly detail: Readonly<Record<string, unknown>>;
}

/** The events and audit rows of changes, in one statement. */
export async function insertChanges(
  tx: Tx,
  changes: readonly (Change & { readonly eventId: string })[],
): Promise<void> {
  await tx`
    with given as (
      select *
      from jsonb_to_recordset(${tx.json(changes as never)}) as given ("eventId" text, actor text, topic text, "targetId" text, "targetVersion" int,
        "projectId" text, "requestId" text, body jsonb)
    ), told as (
      insert into events (id, aggregate_id, aggregate_version, topic, project_id, body)
      select "eventId", "targetId", "targetVersion", topic, "projectId", body from given
    )
    insert into audit_log (actor, action, target_id, target_version, outcome, request_id, detail)
    select actor, topic, "targetId", "targetVersion", 'succeeded', "requestId", body from given
  `;
}

export async function insertAuditRow(db: Queryable, row: AuditRow): Promise<void> {
  await insertAuditRows(db, [row]);
}

export async function insertAuditRows(db: Queryable, rows: readonly AuditRow[]): Promise<void> {
  await db`
    insert into audit_log (actor, action, target_id, target_version, outcome, request_id, detail)
    select actor, action, "targetId", "targetVersion", outcome, "requestId", detail
    from jsonb_to_recordset(${db.json(rows as never)}) as given (actor text, action text, "targetId" text, "targetVersion" int, outcome text,
      "requestId" text, detail jsonb)
  `;
}

export interface AuditFilter {
  readonly targetId?: string | undefined;
  readonly actor?: string | undefined;
  readonly action?: string | undefined;
}

/** Newest first, below the row `before`; rows that are not sealed yet have no position. */
export async function listAuditRows(
  db: Queryable,
  page: AuditFilter & { readonly before: number | null; readonly limit: number },
): Promise<AuditListEntry[]> {
  const { targetId = null, actor = null, action = null } = page;
  const rows = await db<(Omit<AuditListEntry, "seq" | "position"> & { seq: string; position: string | null })[]>`
    select a.seq, c.position, to_char(a.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as at, a.actor, a.action,
      a.target_id as "targetId", a.target_version as "targetVersion", a.outcome, a.request_id as "requestId", a.detail
    from audit_log a
    left join audit_chain c on c.audit_seq = a.seq
    where (${page.before}::bigint is null or a.seq < ${page.before})
      and (${targetId}::text is null or a.target_id = ${targetId})
      and (${actor}::text is null or a.actor = ${actor})
      and (${action}::text is null or a.action = ${action})
    order by a.seq desc
    limit ${page.limit}
  `;
  return rows.map((row) => ({
    ...row,
    seq: Number(row.seq),
    position: row.position === null ? null : Number(row.position),
  }));
}
