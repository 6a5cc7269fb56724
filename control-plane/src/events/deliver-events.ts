import { backoffMs, type Backoff } from "@hostler/shared/backoff.ts";
import { isAborted } from "@hostler/shared/clock.ts";
import type { Deps } from "../deps.ts";
import { lanesOf, makeProgress, type Lane, type RoundProgress } from "./delivery-model.ts";
import {
  buryEvent,
  endReplay,
  postponeSink,
  readNews,
  readReplays,
  releaseSink,
  saveProgress,
  type ClaimedSink,
  type DueEvent,
} from "./delivery-store.ts";
import { disableSink } from "./disable-sink.ts";
import type { EventSink } from "./event-sink.ts";
import { readTip } from "./store.ts";

export interface DeliveryLimits {
  /** Longer than any sink's own time limit: a lease that lapses while its round still sends would let two send at once. */
  readonly leaseMs: number;
  /** A round that lasts longer begins nothing more: whoever is slow, with much to take, leaves others their turn. */
  readonly turnMs: number;
  /** So many events are read at once, and at most so many are settled ahead of one that waits. */
  readonly pageMax: number;
  readonly backoff: Backoff;
  /** So many failures in a row put an event among the dead letters. */
  readonly attemptsMax: number;
  /** So many failures with nothing taken between them end a round: the receiver is away, and more would only annoy it. */
  readonly failuresMax: number;
  /** A sink that took nothing for so long is disabled. */
  readonly disableAfterMs: number;
  /** A sink that would have more dead letters is disabled. */
  readonly deadLettersMax: number;
}
export const DELIVERY_LIMITS: DeliveryLimits = {
  leaseMs: 20_000,
  turnMs: 10_000,
  pageMax: 256,
  backoff: { firstMs: 1000, maxMs: 300_000 },
  attemptsMax: 12,
  failuresMax: 3,
  disableAfterMs: 86_400_000,
  deadLettersMax: 1000,
};

export interface DeliveryDeps extends Pick<Deps, "sql" | "clock" | "log" | "wake"> {
  readonly random: () => number;
}

export interface Round {
  readonly claimed: ClaimedSink;
  readonly sink: EventSink;
  readonly limits: DeliveryLimits;
  readonly signal: AbortSignal;
}

interface RoundState extends Round {
  readonly progress: RoundProgress;
  readonly failures: Failure[];
  /** Resolves when what was settled until now is in the database; false when the lease is lost. */
  readonly save: () => Promise<boolean>;
  readonly isTurnOver: () => boolean;
  failedInARow: number;
  /** The sink is somebody else's now, or disabled. */
  isOver: boolean;
}

interface Failure {
  readonly due: DueEvent;
  readonly error: string;
}

/**
 * Delivers what is due at a sink that this round owns: each aggregate's events one after the other, several aggregates at once. The
 * states of an event at a sink: ahead of the position → settled ahead, while an older one waits → the position passes it; or →
 * dead letter after `attemptsMax` failures in a row, or at once when an earlier event of its aggregate is one → delivered by a
 * replay, oldest first.
 *
 * At least once: a round that dies after the sink took an event and before that was saved sends it again. Never out of order: the
 * next event of an aggregate leaves when the one before it is saved, and saving asks whether the lease is still ours.
 */
export async function deliverDue(deps: DeliveryDeps, round: Round): Promise<void> {
  const { claimed, signal } = round;
  const progress = makeProgress(claimed);
  const save = coalesce(
    async () => await saveProgress(deps.sql, { ...progress.read(), sink: claimed, leaseMs: round.limits.leaseMs }),
  );
  const endsAtMs = deps.clock.monotonicMs() + round.limits.turnMs;
  const isTurnOver = (): boolean => deps.clock.monotonicMs() >= endsAtMs;
  const state: RoundState = { ...round, progress, failures: [], save, isTurnOver, failedInARow: 0, isOver: false };
  try {
    while (await deliverPage(deps, state)) signal.throwIfAborted();
  } catch (error) {
    if (!isAborted(error, signal)) throw error;
  } finally {
    await releaseSink(deps.sql, claimed);
  }
}

/** Dead letters that go out again come before all news. False when the round is over. */
async function deliverPage(deps: DeliveryDeps, state: RoundState): Promise<boolean> {
  const { claimed, limits, progress } = state;
  // Read before the page: up to there nothing can come in between any more.
  const tip = await readTip(deps.sql);
  const replays = await readReplays(deps.sql, claimed, limits.pageMax);
  const { place, settled } = progress.read();
  const limit = Math.max(1, limits.pageMax - settled.length);
  const isNews = replays.length === 0;
  const page = isNews ? await readNews(deps.sql, { sink: claimed, after: place, settled, limit }) : replays;
  progress.begin(isNews ? page : []);
  await runLanes(deps, state, lanesOf(page));
  if (state.isOver) return false;
  if (state.failures.length > 0) {
    await fail(deps, state);
    return false;
  }
  if (state.isTurnOver()) return false;
  if (!isNews || page.length === limit) return true;
  progress.reach(tip);
  await state.save();
  return false;
}

async function runLanes(deps: DeliveryDeps, state: RoundState, lanes: readonly Lane[]): Promise<void> {
  const waiting = [...lanes];
  const work = async (): Promise<void> => {
    for (let lane = waiting.shift(); lane !== undefined && !state.isOver; lane = waiting.shift()) {
      if (state.failedInARow >= state.limits.failuresMax || state.isTurnOver()) return;
      await runLane(deps, state, lane);
    }
  };
  const workers = Array.from({ length: Math.min(state.sink.inFlightMax, lanes.length) }, work);
  // All have ended before the lease is given back, also when one of them failed.
  const ended = await Promise.allSettled(workers);
  for (const end of ended) if (end.status === "rejected") throw end.reason;
}

async function runLane(deps: DeliveryDeps, state: RoundState, lane: Lane): Promise<void> {
  for (const due of lane) {
    state.signal.throwIfAborted();
    if (state.isOver) return;
    if (due.isBlocked) {
      const error = `an earlier event of ${due.event.aggregateId} is among the dead letters`;
      await bury(deps, state, { due, attempts: 0, error });
      continue;
    }
    const delivery = await state.sink.deliver(due.event, state.signal);
    if (delivery.outcome === "delivered") {
      state.failedInARow = 0;
      state.progress.settle(due, "delivered");
    } else {
      state.failedInARow += 1;
      state.failures.push({ due, error: delivery.error });
    }
    // A failure is nothing to save, but the lease has to last for those that go on.
    if (!(await state.save())) state.isOver = true;
    if (delivery.outcome === "failed" || state.isTurnOver()) return;
  }
}

/** The oldest that failed is the one that is counted. After a dead letter the sink is free at once: others get attempts of their own. */
async function fail(deps: DeliveryDeps, state: RoundState): Promise<void> {
  const { claimed, limits, progress } = state;
  const [failure] = state.failures.toSorted((one, other) => one.due.position - other.due.position);
  if (failure === undefined) return;
  const { due, error } = failure;
  const { hasDelivered } = progress.read();
  const attempts = (claimed.attemptsPosition === due.position ? claimed.attempts : 0) + 1;
  const fields = { sinkId: claimed.id, eventId: due.event.id, attempts, error };
  if ((claimed.failingForMs ?? 0) >= limits.disableAfterMs && !hasDelivered) {
    await disableSink(deps, claimed, `It took nothing for too long: ${error}`);
  } else if (attempts < limits.attemptsMax) {
    deps.log.debug(fields, "event was not delivered");
    const waitMs = backoffMs(limits.backoff, attempts, deps.random);
    await postponeSink(deps.sql, { sink: claimed, position: due.position, attempts, error, waitMs, hasDelivered });
  } else {
    deps.log.warn(fields, "event became a dead letter");
    if (due.isReplay) await endReplay(deps.sql, { sink: claimed, due, attempts, error });
    else await bury(deps, state, { due, attempts, error });
  }
}

/** A sink with too many dead letters is disabled; the position stays, so nothing is lost by it. */
async function bury(
  deps: DeliveryDeps,
  state: RoundState,
  burial: { readonly due: DueEvent; readonly attempts: number; readonly error: string },
): Promise<void> {
  const { claimed, limits, progress } = state;
  const lettersMax = limits.deadLettersMax;
  const outcome = await buryEvent(deps.sql, { ...burial, sink: claimed, lettersMax });
  if (outcome === "buried") {
    progress.settle(burial.due, "buried");
    if (!(await state.save())) state.isOver = true;
    return;
  }
  if (outcome === "full" && !state.isOver) {
    state.isOver = true;
    await disableSink(deps, claimed, `It has ${lettersMax} dead letters. The last: ${burial.error}`);
  }
  state.isOver = true;
}

/** Calls that come while one is under way share the next one. */
function coalesce(work: () => Promise<boolean>): () => Promise<boolean> {
  let current: Promise<unknown> = Promise.resolve();
  let next: Promise<boolean> | undefined;
  return async () => {
    next ??= current
      .catch(() => undefined)
      .then(async () => {
        const mine = work();
        current = mine;
        next = undefined;
        return await mine;
      });
    return await next;
  };
}
