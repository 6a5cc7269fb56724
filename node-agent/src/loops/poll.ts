import { backoffMs } from "@hostler/shared/backoff.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { LEASE_TTL_MS, POLL_WAIT_MS_MAX, type PollAnswer, PROTOCOL_VERSION } from "@hostler/shared/node-protocol.ts";
import { isUnreachable } from "../control/connection-failure.ts";
import type { IdentityKeeper } from "../identity/keep-identity.ts";
import type { SliceInventory } from "../inventory/slice-inventory.ts";
import type { Log } from "../log.ts";
import type { Ask, ControlPlane } from "../ports/control-plane.ts";
import type { Runner } from "../runner/runner.ts";
import type { Loop } from "./supervise.ts";

export interface PollLoopDeps {
  readonly controlPlane: Pick<ControlPlane, "poll">;
  readonly keeper: Pick<IdentityKeeper, "current" | "startSession" | "renewWithin" | "catchUp" | "mend">;
  readonly runner: Runner;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  /** Changes at every start of the agent. */
  readonly agentInstance: string;
  /** The agent before this one ended in order. */
  readonly endedCleanly: boolean;
  /** The sequence of the last task that came; without it lost ones come again when their leases end. */
  readonly takenSeq?: () => Promise<number>;
  /** What is told of the slices on this host; without it, nothing is. */
  readonly slices?: Pick<SliceInventory, "digest" | "ask">;
}

/**
 * Asks for work and is the heartbeat. Level-triggered: a poll says which revision the agent has, and the answer comes
 * when there is a higher one or the wait is over, so an answer that got lost costs one round, never a task.
 *
 *   polling ─answer─► tasks to the runner, renewals, cancellations ─► polling
 *      ├─ refused ───► mended by the identity keeper: a new session, newer trust, the last key ─► polling
 *      └─ no answer ─► away: waits up to 10 s, longer each time ─► polling. Slices and running tasks go on.
 */
export function pollLoop(deps: PollLoopDeps): Loop {
  const { keeper, runner, clock, log } = deps;
  let ackedRevision = 0;
  let leaseTtlMs = LEASE_TTL_MS;
  let number = 0;
  let hasSession = false;
  const pollOnce = async (signal: AbortSignal): Promise<PollAnswer | null> => {
    const sentAtMs = clock.monotonicMs();
    number += 1;
    const request = await askOf(deps, { ackedRevision, leaseTtlMs, number });
    const { running, credit, waitMs } = request;
    const { privateKeyPem } = keeper.current;
    const answer = await askUntilRoom(deps, request, { signal, timeoutMs: Math.round(waitMs * HANGING_SHARE) });
    if (answer === null) return null;
    leaseTtlMs = answer.leaseTtlMs;
    // Whom to trust comes first: the tasks of this answer may be signed by a key that the newest bundle names.
    await keeper.catchUp(answer.trustVersion, signal);
    // An answer to the certificate before this one says nothing about this one.
    const isStillAsked = keeper.current.privateKeyPem === privateKeyPem;
    if (answer.renewWithinMs !== null && isStillAsked) keeper.renewWithin(answer.renewWithinMs);
    await obey(runner, answer, { sentAtMs, running });
    if (answer.wantSlices === true) deps.slices?.ask();
    // An answer that used up the credit may have left tasks of its revision behind: ask for that revision again.
    if (answer.tasks.length < credit) ackedRevision = answer.revision;
    return answer;
  };
  return {
    name: "poll",
    run: async (setStatus, signal) => {
      setStatus("connecting");
      for (let failures = 0; ;) {
        signal.throwIfAborted();
        const startedAtMs = clock.monotonicMs();
        try {
          if (!hasSession) await keeper.startSession(signal);
          hasSession = true;
          const answer = await pollOnce(signal);
          if (failures > 0) log.info({ failures }, "control plane is back");
          failures = 0;
          setStatus(`connected, ${runner.running.length} tasks in hand`);
          const isEmpty = answer?.tasks.length === 0 && clock.monotonicMs() - startedAtMs < QUICK_MS;
          if (isEmpty) await clock.sleep(PAUSE_MS, signal);
        } catch (error) {
          signal.throwIfAborted();
          failures += 1;
          if ((await mended(deps, error, signal)) && failures <= MENDS_AT_ONCE) continue;
          if (failures === 1) log.warn({ error: describeError(error) }, "control plane is away, slices run on");
          setStatus(`control plane away: ${describeError(error)}`);
          // Held until it could be held no longer, a poll was there all the time: it comes back as if for the first time.
          const wasHeld = !isUnreachable(error) && clock.monotonicMs() - startedAtMs >= HELD_MS;
          const wait = backoffMs(isUnreachable(error) ? AWAY : BUSY, wasHeld ? 1 : failures, deps.random);
          await clock.sleep(wait, signal);
        }
      }
    },
  };
}

/** Renewals, losses and cancellations of what ran when the poll was sent, then what is new. */
async function obey(
  runner: Runner,
  answer: PollAnswer,
  poll: { readonly sentAtMs: number; readonly running: Runner["running"] },
): Promise<void> {
  const { sentAtMs, running } = poll;
  const stale = new Set(answer.stale);
  runner.renew({
    sentAtMs,
    ttlMs: answer.leaseTtlMs,
    taskIds: running.map(({ taskId }) => taskId).filter((taskId) => !stale.has(taskId)),
  });
  for (const taskId of answer.stale) runner.lose(taskId);
  for (const taskId of answer.cancel) runner.cancel(taskId);
  for (const { jws } of answer.tasks) await runner.take({ jws, sentAtMs, leaseTtlMs: answer.leaseTtlMs });
}

/** A poll waits for a little less than a lease, so that one that hangs on a dead way costs a task one grant and not more. */
const WAIT_SHARE = 5 / 6;
/** One that is not answered for this much of what it waits hangs. */
const HANGING_SHARE = 1.6;

async function askOf(
  deps: PollLoopDeps,
  known: { readonly ackedRevision: number; readonly leaseTtlMs: number; readonly number: number },
): Promise<Ask> {
  const { running, credit } = deps.runner;
  const slicesDigest = deps.slices?.digest ?? null;
  return {
    protocolVersion: PROTOCOL_VERSION,
    agentInstance: deps.agentInstance,
    ackedRevision: known.ackedRevision,
    waitMs: Math.min(POLL_WAIT_MS_MAX, Math.round(known.leaseTtlMs * WAIT_SHARE)),
    credit,
    running,
    endedCleanly: deps.endedCleanly,
    number: known.number,
    ...(deps.takenSeq === undefined ? {} : { takenSeq: await deps.takenSeq() }),
    ...(slicesDigest === null ? {} : { slicesDigest }),
  };
}

/** A refusal that the agent could do something about is asked again at once so many times, then in the pace of any other. */
const MENDS_AT_ONCE = 3;

/** What a refusal calls for: a new session, newer trust, the way back by the last key. */
async function mended(
  { keeper, log }: { readonly keeper: Pick<IdentityKeeper, "mend">; readonly log: Log },
  error: unknown,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    return await keeper.mend(error, signal);
  } catch (failure) {
    signal.throwIfAborted();
    log.warn({ refusal: describeError(error), error: describeError(failure) }, "the refusal could not be mended");
    return false;
  }
}

/** Nobody there: a fleet that lost its control plane comes back with a handshake each, so it takes its time. */
const AWAY = { firstMs: 2000, maxMs: 10_000 };
/** It answered that it cannot, as while its database is away: asking again is cheap, and work waits for it. */
const BUSY = { firstMs: 300, maxMs: 10_000 };
/** No refusal takes this long: the control plane let the poll wait for its database, and said so in the end. */
const HELD_MS = 1000;
/** An empty answer that comes at once (a revision without tasks for us) is not asked for again at once. */
const QUICK_MS = 50;
const PAUSE_MS = 200;

/**
 * A poll that asks for no tasks still waits, to hear of cancellations. When there is room again it is given up for one that asks
 * for tasks: null. Nothing is lost by that, for without credit nothing is granted.
 */
async function askUntilRoom(
  deps: Pick<PollLoopDeps, "controlPlane" | "runner">,
  request: Parameters<ControlPlane["poll"]>[0],
  limits: { readonly signal: AbortSignal; readonly timeoutMs: number },
): Promise<PollAnswer | null> {
  const { signal, timeoutMs } = limits;
  if (request.credit > 0) return await deps.controlPlane.poll(request, signal, { timeoutMs });
  const room = new AbortController();
  void deps.runner.creditChanged().then(() => room.abort(new Error("there is room for tasks again")));
  try {
    return await deps.controlPlane.poll(request, AbortSignal.any([signal, room.signal]), { timeoutMs });
  } catch (error) {
    if (room.signal.aborted && !signal.aborted) return null;
    throw error;
  }
}
