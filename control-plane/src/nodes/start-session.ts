import { AppError } from "@hostler/shared/errors.ts";
import { PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, type SessionRequest } from "@hostler/shared/node-protocol.ts";
import { insertAuditRow } from "../audit/store.ts";
import { refusedTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { freezeNode } from "./freeze-node.ts";
import { raiseAboveSeen } from "../tasks/raise-above.ts";
import { judgeStart } from "./judge-session.ts";
import type { SessionTokens } from "./session-token.ts";
import { lockSession, saveSession } from "./session-store.ts";

/**
 * A start of an agent. Whoever comes with a session that was replaced and used holds a copy of the identity: the node is frozen,
 * and with it both copies. Rejects with `node_frozen` then. The same start twice, or late, is answered with the same session.
 */
export async function startSession(
  deps: Pick<Deps, "sql" | "clock" | "wake"> & { readonly sessions: SessionTokens },
  request: {
    readonly nodeId: string;
    readonly body: SessionRequest;
    readonly requestId: string;
    /** Aborts when who asked is gone. */
    readonly signal: AbortSignal;
  },
): Promise<{ readonly session: string }> {
  const { nodeId, body, requestId } = request;
  refuseOtherVersions(body.protocolVersion);
  const previous = body.previous === null ? 0 : (deps.sessions.read(nodeId, body.previous) ?? 0);
  const session = await inTransaction(deps.sql, async (tx) => {
    const record = await lockSession(tx, nodeId);
    if (record === undefined) throw new AppError("not_found");
    // It waited for us until its process died, and a later one may have a session: taken now, it would look like a copy.
    if (request.signal.aborted) throw new AppError("service_unavailable", { detail: "Who asked is gone." });
    const verdict = judgeStart(record, { previous, instance: body.agentInstance });
    if (verdict.kind === "copy") {
      const reason = `Two holders: a start came with session ${previous} after ${record.session} was in use.`;
      await freezeNode(tx, deps.clock, { nodeId, actor: `node:${nodeId}`, reason, requestId });
      return null;
    }
    if (verdict.kind === "again") return verdict.session;
    const { agentInstance, protocolVersion, highWaterMark, highestFence = null } = body;
    await saveSession(tx, { nodeId, session: verdict.session, from: verdict.from, agentInstance, protocolVersion });
    await raiseAboveSeen(tx, { nodeId, seq: highWaterMark, fence: highestFence });
    await insertAuditRow(tx, {
      actor: `node:${nodeId}`,
      action: "node.session_started",
      targetId: nodeId,
      targetVersion: null,
      outcome: "succeeded",
      requestId,
      detail: { session: verdict.session, previous, known: record.session, agentInstance },
    });
    return verdict.session;
  });
  if (session === null) {
    deps.wake.wake(refusedTopic(nodeId));
    throw new AppError("node_frozen");
  }
  return { session: deps.sessions.make(nodeId, session) };
}

function refuseOtherVersions(version: number): void {
  if (version >= PROTOCOL_VERSION_MIN && version <= PROTOCOL_VERSION) return;
  throw new AppError("protocol_unsupported", {
    detail: `The agent speaks version ${version}; this control plane speaks ${PROTOCOL_VERSION_MIN} to ${PROTOCOL_VERSION}.`,
  });
}
