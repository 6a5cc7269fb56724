import { LEASE_TTL_MS, type PollAnswer, type PollRequest } from "@hostler/shared/node-protocol.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { nodeTopic, type Wakening } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import type { AuthenticatedNode } from "../http/node-env.ts";
import type { LiveSockets } from "../nodes/live-sockets.ts";
import type { Liveness, Seen } from "../nodes/liveness.ts";
import type { Pki } from "../pki/open-pki.ts";
import type { Dispatch } from "./dispatch.ts";
import type { PollReads } from "./gather-polls.ts";
import type { Granted } from "./grant-claims.ts";
import type { HandOver, Offer } from "./hand-over.ts";
import { endForgottenLeases, endLostGrants } from "./lose-holders.ts";
import type { NodeProgress } from "./store.ts";

/**
 * When the CA of their certificates goes out, hosts renew at random moments within a time that grows with their number, so that
 * a large fleet takes a tenth of a processor for it and a small one does not wait.
 */
const RENEW_WITHIN_MS = { least: 2000, perConnection: 10 };

export interface PollDeps extends PollReads, Pick<Deps, "sql" | "clock" | "wake" | "log" | "leaseTtlMs"> {
  readonly pki: Pick<Pki, "trust" | "authority">;
  readonly dispatch: Pick<Dispatch, "take">;
  readonly handOver: Pick<HandOver, "offer">;
  readonly liveness: Liveness;
  readonly liveSockets: Pick<LiveSockets, "size">;
}

const ANSWERED = new Error("answered");
/** Timers count whole milliseconds and may end that much early. */
const TIMER_SLACK_MS = 2;

/**
 * Answers one poll: heartbeat, lease renewal and new tasks in one. It answers at once when there is something to tell (a task,
 * a lost lease, a cancellation), else it waits for a wake-up up to the time that the agent asked for. What it answers comes from
 * the tables, never from the hint; `scan-waiting.ts` brings back hints that were lost. A task that is made at this replica while the poll
 * waits is granted where it is made (`hand-over.ts`).
 */
export async function pollTasks(
  deps: PollDeps,
  request: {
    readonly node: AuthenticatedNode;
    readonly body: PollRequest;
    /** In monotonic time: what it waited for the database counts as waiting. */
    readonly arrivedMs: number;
    readonly signal: AbortSignal;
  },
): Promise<PollAnswer> {
  const { node, body, arrivedMs, signal } = request;
  signal.throwIfAborted();
  const answered = new AbortController();
  const onAbort = (): void => answered.abort(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  const seen = seenIn(node, body);
  // A poll lasts almost as long as a node may be silent: the open connection, kept honest by TCP, is the heartbeat.
  const endWaiting = deps.liveness.noteWaiting(seen);
  try {
    return await answerPoll(deps, node, { body, seen, arrivedMs, signal: answered.signal });
  } finally {
    endWaiting();
    signal.removeEventListener("abort", onAbort);
    answered.abort(ANSWERED);
  }
}

interface Poll {
  readonly body: PollRequest;
  readonly seen: Seen;
  readonly arrivedMs: number;
  /** Aborts when the poll is over by whatever cause. */
  readonly signal: AbortSignal;
}

async function answerPoll(deps: PollDeps, node: AuthenticatedNode, poll: Poll): Promise<PollAnswer> {
  const deadlineMs = poll.arrivedMs + poll.body.waitMs;
  await noteSeen(deps, poll);
  for (let wakening: Wakening | null = null; ;) {
    const leftMs = deadlineMs - deps.clock.monotonicMs();
    // The wait begins before the tables are read, so that a wake-up during the read is not lost.
    const woken = deps.wake.wait(nodeTopic(node.id), Math.max(leftMs, 0), poll.signal);
    woken.catch(() => "thrown where it is awaited");
    const look = await lookFor(deps, node, { body: poll.body, wakening });
    if (look.hasNews || leftMs <= 0) return answerOf(deps, node, look);
    const offer = offerTo(deps, node, poll.body);
    try {
      wakening = await woken;
      const given = await offer.end();
      if (given !== null)
        return answerOf(deps, node, { ...look, tasks: [...given.tasks], revision: given.revision ?? look.revision });
    } finally {
      offer.withdraw();
    }
    // Nobody woke it: there is no more to tell than there was, unless leases are to be renewed, and the next poll looks at once.
    const isOver = deadlineMs - deps.clock.monotonicMs() < TIMER_SLACK_MS;
    if (isOver && poll.body.running.length === 0) return answerOf(deps, node, look);
  }
}

const NO_OFFER: Offer = { end: async () => await Promise.resolve(null), withdraw: () => undefined };

/** A poll that takes tasks may be given one by the request that makes it. */
function offerTo({ handOver }: PollDeps, node: AuthenticatedNode, body: PollRequest): Offer {
  return body.credit > 0 ? handOver.offer(claimOf(node, body)) : NO_OFFER;
}

function claimOf(node: AuthenticatedNode, body: PollRequest) {
  return { node, credit: body.credit, poll: body.number ?? null };
}

/** What the tables tell a poll. */
interface Look extends Pick<PollAnswer, "revision" | "tasks" | "stale" | "cancel" | "wantSlices"> {
  /** Whether the poll is answered now. */
  readonly hasNews: boolean;
}

function answerOf(deps: PollDeps, node: AuthenticatedNode, look: Look): PollAnswer {
  const { revision, tasks, stale, cancel, wantSlices } = look;
  return {
    revision,
    serverTime: deps.clock.now().toISOString(),
    leaseTtlMs: deps.leaseTtlMs ?? LEASE_TTL_MS,
    trustVersion: deps.pki.trust.bundle.version,
    renewWithinMs: renewWithinMs(deps, node),
    tasks,
    stale,
    cancel,
    wantSlices,
  };
}

const NOTHING: Granted = { tasks: [], revision: null };

async function lookFor(
  deps: PollDeps,
  node: AuthenticatedNode,
  poll: { readonly body: PollRequest; readonly wakening: Wakening | null },
): Promise<Look> {
  const { body, wakening } = poll;
  const isWoken = wakening !== null;
  const take = async (): Promise<Granted> =>
    body.credit > 0 ? await deps.dispatch.take(claimOf(node, body)) : NOTHING;
  // A hint is nearly always a task: it is taken at once, beside the look at what else there is to tell. One for everybody is not:
  // ten thousand claims for nothing would be in the way of those for something.
  const taken = wakening === "topic" ? take() : null;
  const [held, progress, atOnce] = await Promise.all([
    lookAtHeld(deps, node.id, { body, isWoken }),
    deps.readProgress(node.id),
    taken,
  ]);
  if (progress === undefined) throw new AppError("not_found");
  refuseEndedSession(node, progress);
  const lost = isWoken ? 0 : await takeBackLost(deps, { nodeId: node.id, body, seq: progress.seq });
  const { tasks, revision } = atOnce ?? (progress.ready + lost > 0 ? await take() : NOTHING);
  // A renewed node asks again under its new certificate, so that the connection of the old one is let go.
  const mustAskAgain = deps.pki.trust.bundle.version > body.trustVersion || progress.certificate > node.generation;
  const hasNews = tasks.length > 0 || held.stale.length > 0 || held.cancel.length > 0 || mustAskAgain;
  // No news by itself: a host tells of changes unasked, and what cannot be told must not make polls spin.
  const wantSlices = body.slicesDigest !== undefined && body.slicesDigest !== progress.slicesDigest;
  return { hasNews, revision: revision ?? body.ackedRevision, tasks: [...tasks], wantSlices, ...held };
}

/** Only when a poll comes in: what it says of itself grows old while it waits. */
async function takeBackLost(
  deps: PollDeps,
  poll: { readonly nodeId: string; readonly body: PollRequest; readonly seq: number },
): Promise<number> {
  const { nodeId, body, seq } = poll;
  const { takenSeq, number } = body;
  if (takenSeq === undefined || number === undefined || takenSeq >= seq) return 0;
  return await endLostGrants(deps, { nodeId, takenSeq, poll: number });
}

function renewWithinMs({ pki, liveSockets }: PollDeps, node: AuthenticatedNode): number | null {
  if (node.authority === pki.authority.generation) return null;
  return RENEW_WITHIN_MS.least + RENEW_WITHIN_MS.perConnection * liveSockets.size;
}

/** The heartbeat. An agent that was restarted holds only what it lists: its other leases are free at once. */
async function noteSeen(deps: PollDeps, { seen, body }: Poll): Promise<void> {
  const { nodeId, agentInstance } = seen;
  const isKnown = deps.liveness.knows(nodeId, agentInstance);
  const before = isKnown ? undefined : await deps.readProgress(nodeId);
  await deps.liveness.noteSeen(seen);
  if (before === undefined || before.agentInstance === null || before.agentInstance === agentInstance) return;
  const stillHeld = body.running.map((task) => task.taskId);
  const loss = body.endedCleanly === true ? "agent restarted" : "agent crashed";
  await endForgottenLeases(deps, { nodeId, stillHeld, loss });
}

function seenIn(node: AuthenticatedNode, body: PollRequest): Seen {
  const { agentInstance, ackedRevision, trustVersion } = body;
  return { nodeId: node.id, agentInstance, ackedRevision, trustVersion };
}

/**
 * Renews what the poll names when it comes in, which is the moment that the agent counts from; later looks only tell it what is its
 * no more, and what to stop.
 */
async function lookAtHeld(
  deps: PollDeps,
  nodeId: string,
  { body, isWoken }: { readonly body: PollRequest; readonly isWoken: boolean },
): Promise<{ stale: string[]; cancel: string[] }> {
  if (body.running.length === 0) return { stale: [], cancel: [] };
  const held = body.running.map(({ taskId, fence }) => ({ taskId, fence, nodeId }));
  const renewed = isWoken ? await deps.look(held) : await deps.renew(held);
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
