import { LEASE_TTL_MS, type PollAnswer, type PollRequest } from "@hostler/shared/node-protocol.ts";
import { sha256Hex } from "@hostler/pki";
import { AppError } from "@hostler/shared/errors.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import type { AuthenticatedNode } from "../http/node-env.ts";
import type { LiveSockets } from "../nodes/live-sockets.ts";
import type { Liveness, Seen } from "../nodes/liveness.ts";
import type { Pki } from "../pki/open-pki.ts";
import { claimsOf } from "./grant-task.ts";
import {
  claimTasks,
  readNodeProgress,
  releaseForgottenLeases,
  renewLeases,
  saveGrant,
  type NodeProgress,
} from "./store.ts";

/** How long one wait lasts before the tables are read again: a lost hint costs this much and no more. */
const RECHECK_MS = 2000;
/**
 * When the CA of their certificates goes out, hosts renew at random moments within a time that grows with their number, so that
 * a large fleet takes a tenth of a processor for it and a small one does not wait.
 */
const RENEW_WITHIN_MS = { least: 2000, perConnection: 10 };

export interface PollDeps extends Pick<Deps, "sql" | "clock" | "wake" | "log"> {
  readonly pki: Pick<Pki, "signTask" | "trust" | "authority">;
  readonly liveness: Liveness;
  readonly liveSockets: Pick<LiveSockets, "size">;
}

/**
 * Answers one poll: heartbeat, lease renewal and new tasks in one. It answers at once when there is something to tell (a task,
 * a lost lease, a cancellation), else it waits for a wake-up up to the time that the agent asked for. What it answers comes from
 * the tables, never from the hint.
 */
export async function pollTasks(
  deps: PollDeps,
  request: { readonly node: AuthenticatedNode; readonly body: PollRequest; readonly signal: AbortSignal },
): Promise<PollAnswer> {
  const { node, body, signal } = request;
  await adoptRestartedAgent(deps, node, body);
  const deadlineMs = deps.clock.monotonicMs() + body.waitMs;
  for (;;) {
    const held = await renewHeld(deps, node.id, body);
    const progress = await readNodeProgress(deps.sql, node.id);
    if (progress === undefined) throw new AppError("not_found");
    refuseEndedSession(node, progress);
    // A poll lasts almost as long as a node may be silent: the open connection, kept honest by TCP, is the heartbeat.
    deps.liveness.noteWaiting(seenIn(node, body));
    const tasks = progress.ready > 0 && body.credit > 0 ? await claimAndSign(deps, node, body.credit) : [];
    const leftMs = deadlineMs - deps.clock.monotonicMs();
    const hasNews = tasks.length > 0 || held.stale.length > 0 || held.cancel.length > 0;
    const { version: trustVersion } = deps.pki.trust.bundle;
    // A renewed node asks again under its new certificate, so that the connection of the old one is let go.
    const mustAskAgain = trustVersion > body.trustVersion || progress.certificate > node.generation;
    if (hasNews || mustAskAgain || leftMs <= 0) {
      return {
        revision: Number(progress.desiredRevision),
        serverTime: deps.clock.now().toISOString(),
        leaseTtlMs: LEASE_TTL_MS,
        trustVersion,
        renewWithinMs: renewWithinMs(deps, node),
        tasks,
        ...held,
      };
    }
    await deps.wake.wait(nodeTopic(node.id), Math.min(leftMs, RECHECK_MS), signal);
  }
}

function renewWithinMs({ pki, liveSockets }: PollDeps, node: AuthenticatedNode): number | null {
  if (node.authority === pki.authority.generation) return null;
  return RENEW_WITHIN_MS.least + RENEW_WITHIN_MS.perConnection * liveSockets.size;
}

async function adoptRestartedAgent(deps: PollDeps, node: AuthenticatedNode, body: PollRequest): Promise<void> {
  const before = await readNodeProgress(deps.sql, node.id);
  await deps.liveness.noteSeen(seenIn(node, body));
  if (before?.agentInstance === null || before?.agentInstance === body.agentInstance) return;
  const freed = await inTransaction(
    deps.sql,
    async (tx) =>
      await releaseForgottenLeases(
        tx,
        node.id,
        body.running.map((task) => task.taskId),
      ),
  );
  if (freed > 0) deps.log.info({ nodeId: node.id, tasks: freed }, "agent restarted; its tasks are handed out again");
}

function seenIn(node: AuthenticatedNode, body: PollRequest): Seen {
  const { agentInstance, ackedRevision, trustVersion } = body;
  return { nodeId: node.id, agentInstance, ackedRevision, trustVersion };
}

async function renewHeld(
  deps: PollDeps,
  nodeId: string,
  body: PollRequest,
): Promise<{ stale: string[]; cancel: string[] }> {
  if (body.running.length === 0) return { stale: [], cancel: [] };
  const renewed = await renewLeases(deps.sql, { nodeId, held: body.running, leaseMs: LEASE_TTL_MS });
  const ours = new Set(renewed.map((lease) => lease.taskId));
  return {
    stale: body.running.map((task) => task.taskId).filter((taskId) => !ours.has(taskId)),
    cancel: renewed.filter((lease) => lease.cancelRequested).map((lease) => lease.taskId),
  };
}

/** While the poll waited, a later start of the agent was seen: what this one asks for is not its own any more. */
function refuseEndedSession(node: AuthenticatedNode, progress: NodeProgress): void {
  if (!progress.isSessionConfirmed || progress.session <= node.session) return;
  throw new AppError("session_superseded", {
    detail: `Session ${node.session} ended when ${progress.session} began.`,
  });
}

/** Claim and signature are one commit: a task is never leased without a grant that its result can be bound to. */
async function claimAndSign(deps: PollDeps, node: AuthenticatedNode, credit: number): Promise<{ jws: string }[]> {
  return await inTransaction(deps.sql, async (tx) => {
    const claimed = await claimTasks(tx, { nodeId: node.id, limit: credit, leaseMs: LEASE_TTL_MS });
    const grants: { jws: string }[] = [];
    for (const task of claimed.toSorted((a, b) => Number(a.seq) - Number(b.seq))) {
      const jws = await deps.pki.signTask(claimsOf(task, node, deps.clock.now()));
      await saveGrant(tx, { taskId: task.id, fence: task.fence, digest: sha256Hex(jws) });
      grants.push({ jws });
    }
    return grants;
  });
}
