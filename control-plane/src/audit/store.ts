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

export async function insertEvent(tx: Tx, id: string, change: Change): Promise<void> {
  await tx`
    insert into events (id, aggregate_id, aggregate_version, topic, project_id, body)
    values (${id}, ${change.targetId}, ${change.targetVersion}, ${change.topic}, ${change.projectId}, ${tx.json(change.body as never)})
  `;
}

export async function insertAuditRow(db: Queryable, row: AuditRow): Promise<void> {
  await db`
    insert into audit_log (actor, action, target_id, target_version, outcome, request_id, detail)
    values (${row.actor}, ${row.action}, ${row.targetId}, ${row.targetVersion}, ${row.outcome}, ${row.requestId},
      ${db.json(row.detail as never)})
  `;
}
