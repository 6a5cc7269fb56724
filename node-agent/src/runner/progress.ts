import { backoffMs } from "@hostler/shared/backoff.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { describeError, isAppError } from "@hostler/shared/errors.ts";
import { EVENTS_MAX } from "@hostler/shared/node-protocol.ts";
import type { PhaseEvent } from "@hostler/shared/tasks.ts";
import type { Log } from "../log.ts";
import type { ControlPlane } from "../ports/control-plane.ts";
import type { Lease } from "./lease.ts";
import type { NewEvent } from "./run-phases.ts";

/**
 * Tells the control plane how a task goes and keeps its lease. Events gather for a moment and leave in batches; while one batch
 * is on its way or the control plane is away, phases go on and the queue grows, up to a bound. An answer renews the
 * lease and may say that the task is cancelled; with nothing to tell, an empty batch leaves every third of the lease.
 */
export interface Progress {
  emit(event: NewEvent): void;
  /** The phase of the last event; null before the first. */
  readonly phase: string | null;
  /** Sends at once. Resolves when all that was emitted has left and the lease was renewed since, or after `timeoutMs`. */
  flush(timeoutMs: number): Promise<void>;
  /** What was not told yet, oldest first, at most as much as goes with a result: it is the caller's to tell now. */
  takeUntold(timeoutMs: number): Promise<PhaseEvent[]>;
}

interface ProgressDeps {
  readonly controlPlane: Pick<ControlPlane, "sendProgress">;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
}

interface ProgressOptions {
  readonly taskId: string;
  readonly fence: string;
  readonly lease: Lease;
  /** Ends the sending. */
  readonly signal: AbortSignal;
  readonly onCancel: () => void;
  readonly onLost: (reason: unknown) => void;
}

/** So long a batch gathers: a task that is over by then tells everything with its result. */
const GATHER_MS = 100;
/** Kept while the control plane is away; beyond it `progress` messages go first, they only tell how far a phase got. */
const QUEUE_MAX = 1000;
/** So much of a lease an answer may take: there is time for two tries more, by another way, before it ends. */
const ANSWER_SHARE = 0.2;
const RETRY = { firstMs: 200, maxMs: 5000 };

export function startProgress(deps: ProgressDeps, options: ProgressOptions): Progress {
  const queue: PhaseEvent[] = [];
  let seq = 0;
  /** Up to here events have been in a batch, whether it arrived or not. */
  let offeredSeq = 0;
  let phase: string | null = null;
  let wake = Promise.withResolvers<void>();
  let urgent = Promise.withResolvers<void>();
  let renewed = Promise.withResolvers<void>();

  const emit = (event: NewEvent): void => {
    phase = event.phase;
    if (isEndOf(event, queue.at(-1), offeredSeq)) queue.pop();
    else seq += 1;
    queue.push({ ...event, seq, at: deps.clock.now().toISOString() });
    if (queue.length > QUEUE_MAX)
      queue.splice(
        Math.max(
          0,
          queue.findIndex((old) => old.status === "progress"),
        ),
        1,
      );
    wake.resolve();
  };

  const sendForEver = async (): Promise<void> => {
    for (let failures = 0; !options.signal.aborted;) {
      const idleMs = options.lease.ttlMs / 3;
      const isFailing = failures > 0;
      const waitMs = isFailing ? Math.min(idleMs, backoffMs(RETRY, failures, deps.random)) : idleMs;
      await waitFor(
        deps.clock,
        waitMs,
        isFailing ? null : Promise.race([wake.promise, urgent.promise]),
        options.signal,
      );
      if (!isFailing && queue.length > 0) await waitFor(deps.clock, GATHER_MS, urgent.promise, options.signal);
      if (options.signal.aborted) return;
      wake = Promise.withResolvers<void>();
      urgent = Promise.withResolvers<void>();
      const batch = queue.slice(0, EVENTS_MAX);
      const lastSeq = batch.at(-1)?.seq ?? 0;
      offeredSeq = Math.max(offeredSeq, lastSeq);
      const sent = await sendBatch(deps, options, batch);
      failures = sent ? 0 : failures + 1;
      if (!sent) continue;
      queue.splice(0, queue.findLastIndex((event) => event.seq <= lastSeq) + 1);
      if (queue.length > 0) wake.resolve();
      else renewed.resolve();
    }
  };
  void sendForEver().catch((error: unknown) => options.onLost(error));

  const flush = async (timeoutMs: number): Promise<void> => {
    renewed = Promise.withResolvers<void>();
    urgent.resolve();
    await waitFor(deps.clock, timeoutMs, renewed.promise, options.signal);
  };
  return {
    emit,
    get phase() {
      return phase;
    },
    flush,
    takeUntold: async (timeoutMs) => {
      if (queue.length > EVENTS_MAX) await flush(timeoutMs);
      return queue.splice(0).slice(-EVENTS_MAX);
    },
  };
}

/** The start of a phase that was over before anybody was told of it says nothing that its end does not. */
function isEndOf(event: NewEvent, before: PhaseEvent | undefined, offeredSeq: number): boolean {
  if (before?.status !== "started" || before.seq <= offeredSeq || event.durationMs === null) return false;
  return before.phase === event.phase && before.direction === event.direction && before.attempt === event.attempt;
}

/** Resolves false when it is worth another try. */
async function sendBatch(
  deps: ProgressDeps,
  options: ProgressOptions,
  events: readonly PhaseEvent[],
): Promise<boolean> {
  const { taskId, fence, lease, signal } = options;
  const sentAtMs = deps.clock.monotonicMs();
  try {
    const answer = await deps.controlPlane.sendProgress({
      taskId,
      fence,
      events,
      signal,
      timeoutMs: Math.round(lease.ttlMs * ANSWER_SHARE),
    });
    lease.extend(sentAtMs, answer.leaseTtlMs);
    if (answer.cancel) options.onCancel();
    return true;
  } catch (error) {
    if (signal.aborted) return true;
    if (isAppError(error, "lease_stale")) {
      options.onLost(error);
      return true;
    }
    deps.log.debug({ taskId, error: describeError(error) }, "progress not delivered, will retry");
    return false;
  }
}

/** Resolves after the time, when `wake` resolves, or when the signal aborts: never rejects. */
async function waitFor(clock: Clock, ms: number, wake: Promise<void> | null, signal: AbortSignal): Promise<void> {
  const ended = new AbortController();
  const timer = clock.sleep(ms, AbortSignal.any([signal, ended.signal])).catch(() => "woken or aborted");
  await (wake === null ? timer : Promise.race([timer, wake]));
  ended.abort(new Error("ended"));
}
