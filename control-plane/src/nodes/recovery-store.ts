import type { NodeState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export interface RecoveryRecord {
  readonly state: NodeState;
  readonly recoveries: number;
  readonly limit: number;
  readonly isRestoreExpected: boolean;
}

/** Reads what a recovery is judged by and holds the node's row. */
export async function lockRecovery(tx: Tx, nodeId: string): Promise<RecoveryRecord | undefined> {
  const [row] = await tx<RecoveryRecord[]>`
    select state, recoveries, recovery_limit as "limit", coalesce(restore_until > now(), false) as "isRestoreExpected"
    from nodes
    where id = ${nodeId}
    for update
  `;
  return row;
}

export async function countRecovery(tx: Tx, nodeId: string): Promise<void> {
  await tx`update nodes set recoveries = recoveries + 1 where id = ${nodeId}`;
}

/** An ordinary renewal: the host is well again. */
export async function forgetRecoveries(tx: Tx, nodeId: string): Promise<void> {
  await tx`update nodes set recoveries = 0 where id = ${nodeId} and recoveries > 0`;
}

/** So many more recoveries before the next ordinary renewal. False when there is no such node. */
export async function allowRecoveries(db: Queryable, nodeId: string, more: number): Promise<boolean> {
  const rows = await db`
    update nodes
    set recovery_limit = recoveries + ${more}
    where id = ${nodeId}
    returning id
  `;
  return rows.length === 1;
}

export async function findNewestCertificate(
  db: Queryable,
  nodeId: string,
): Promise<{ readonly notBefore: Date } | undefined> {
  const [row] = await db<{ notBefore: Date }[]>`
    select not_before as "notBefore"
    from node_certificates
    where node_id = ${nodeId}
    order by generation desc
    limit 1
  `;
  return row;
}
