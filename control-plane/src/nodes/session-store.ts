import type { Queryable, Tx } from "../db/sql.ts";
import type { NodeState } from "@hostler/shared/states.ts";
import type { SessionRecord } from "./judge-session.ts";

/** Reads a node's session and holds its row: starts of one node pass here one after another. */
export async function lockSession(
  tx: Tx,
  nodeId: string,
): Promise<(SessionRecord & { readonly state: NodeState }) | undefined> {
  const [row] = await tx<
    {
      state: NodeState;
      session: string;
      from: string;
      confirmed: boolean;
      isRestoreExpected: boolean;
      instance: string | null;
    }[]
  >`
    select state, session::text, session_from::text as "from", session_confirmed as confirmed, session_instance as instance,
      coalesce(restore_until > now(), false) as "isRestoreExpected"
    from nodes
    where id = ${nodeId}
    for update
  `;
  return row === undefined ? undefined : { ...row, session: Number(row.session), from: Number(row.from) };
}

/** A start: the next session, unconfirmed. */
export async function saveSession(
  tx: Tx,
  start: {
    readonly nodeId: string;
    readonly session: number;
    readonly from: number;
    readonly agentInstance: string;
    readonly protocolVersion: number;
  },
): Promise<void> {
  await tx`
    update nodes
    set session = ${start.session}, session_from = ${start.from}, session_confirmed = false, session_instance = ${start.agentInstance},
      restore_until = null, protocol_version = ${start.protocolVersion}
    where id = ${start.nodeId}
  `;
}

/** The session was used: the one before it is worth nothing from now on. A higher one than ours is taken over. */
export async function confirmSession(db: Queryable, nodeId: string, session: number): Promise<void> {
  await db`
    update nodes
    set session_from = case when session < ${session} then ${session} else session_from end,
      session = ${session}, session_confirmed = true
    where id = ${nodeId} and session <= ${session}
  `;
}

/** For that long, a start with an older session is the host that was restored, not a copy of it. */
export async function expectRestore(db: Queryable, nodeId: string, seconds: number): Promise<boolean> {
  const rows = await db`
    update nodes
    set restore_until = now() + make_interval(secs => ${seconds})
    where id = ${nodeId}
    returning id
  `;
  return rows.length === 1;
}
