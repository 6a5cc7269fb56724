import { backoffMs } from "@hostler/shared/backoff.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { POLL_WAIT_MS_MAX, type PollAnswer, PROTOCOL_VERSION } from "@hostler/shared/node-protocol.ts";
import type { IdentityKeeper } from "../identity/keep-identity.ts";
import type { SliceInventory } from "../inventory/slice-inventory.ts";
import type { Log } from "../log.ts";
import type { Ask, ControlPlane } from "../ports/control-plane.ts";
import type { Runner } from "../runner/runner.ts";
import type { Loop } from "./supervise.ts";

/**
 * Asks for work and is the heartbeat. Level-triggered: a poll says which revision the agent has, and the answer comes
 * when there is a higher one or the wait is over, so an answer that got lost costs one round, never a task.
 *
 *   polling ─answer─► tasks to the runner, renewals, cancellations ─► polling
 *      ├─ refused ───► mended by the identity keeper: a new session, newer trust, the last key ─► polling
 *      └─ no answer ─► away: waits 0.2 to 10 s, longer each time ─► polling. Slices and running tasks go on.
 */
export function pollLoop(deps: {
  readonly controlPlane: Pick<ControlPlane, "poll">;
  readonly keeper: Pick<IdentityKeeper, "current" | "startSession" | "renewWithin" | "catchUp" | "mend">;
  readonly runner: Runner;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  /** Changes at every start of the agent. */
  readonly agentInstance: string;
  /** What is told of the slices on this host; without it, nothing is. */
  readonly slices?: Pick<SliceInventory, "digest" | "ask">;
}): Loop {
  const { controlPlane, keeper, runner, clock, log } = deps;
  let ackedRevision = 0;
  let hasSession = false;
  const pollOnce = async (signal: AbortSignal): Promise<PollAnswer> => {
    const sentAtMs = clock.monotonicMs();
    const request = askOf(deps, ackedRevision);
    const { running, credit } = request;
    const { privateKeyPem } = keeper.current;
    const answer = await controlPlane.poll(request, signal);
    // Whom to trust comes first: the tasks of this answer may be signed by a key that the newest bundle names.
    await keeper.catchUp(answer.trustVersion, signal);
    // An answer to the certificate before this one says nothing about this one.
    const isStillAsked = keeper.current.privateKeyPem === privateKeyPem;
    if (answer.renewWithinMs !== null && isStillAsked) keeper.renewWithin(answer.renewWithinMs);
    const stale = new Set(answer.stale);
    runner.renew({
      sentAtMs,
      ttlMs: answer.leaseTtlMs,
      taskIds: running.map(({ taskId }) => taskId).filter((taskId) => !stale.has(taskId)),
    });
    for (const taskId of answer.stale) runner.lose(taskId);
    for (const taskId of answer.cancel) runner.cancel(taskId);
    if (answer.wantSlices === true) deps.slices?.ask();
    for (const { jws } of answer.tasks) await runner.take({ jws, sentAtMs, leaseTtlMs: answer.leaseTtlMs });
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
          const isEmpty = answer.tasks.length === 0 && clock.monotonicMs() - startedAtMs < QUICK_MS;
          if (isEmpty) await clock.sleep(PAUSE_MS, signal);
          if (runner.credit === 0) await waitForCredit(deps, signal);
        } catch (error) {
          signal.throwIfAborted();
          failures += 1;
          if (failures <= MENDS_AT_ONCE && (await mended(deps, error, signal))) continue;
          if (failures === 1) log.warn({ error: describeError(error) }, "control plane is away, slices run on");
          setStatus(`control plane away: ${describeError(error)}`);
          await clock.sleep(backoffMs(AWAY, failures, deps.random), signal);
        }
      }
    },
  };
}

function askOf(
  deps: {
    readonly runner: Pick<Runner, "running" | "credit">;
    readonly agentInstance: string;
    readonly slices?: Pick<SliceInventory, "digest">;
  },
  ackedRevision: number,
): Ask {
  const { running, credit } = deps.runner;
  const slicesDigest = deps.slices?.digest ?? null;
  return {
    protocolVersion: PROTOCOL_VERSION,
    agentInstance: deps.agentInstance,
    ackedRevision,
    waitMs: POLL_WAIT_MS_MAX,
    credit,
    running,
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

const AWAY = { firstMs: 2000, maxMs: 10_000 };
/** An empty answer that comes at once (a revision without tasks for us) is not asked for again at once. */
const QUICK_MS = 50;
const PAUSE_MS = 200;
/** With no room for tasks, the heartbeat goes on at this pace. */
const FULL_MS = 5000;

async function waitForCredit(
  { runner, clock }: { readonly runner: Runner; readonly clock: Clock },
  signal: AbortSignal,
): Promise<void> {
  const ended = new AbortController();
  const timer = clock.sleep(FULL_MS, AbortSignal.any([signal, ended.signal])).catch(() => "woken or aborted");
  await Promise.race([timer, runner.creditChanged()]);
  ended.abort(new Error("ended"));
}
