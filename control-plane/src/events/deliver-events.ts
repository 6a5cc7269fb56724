import { backoffMs, type Backoff } from "@hostler/shared/backoff.ts";
import { isAborted } from "@hostler/shared/clock.ts";
import { recordChange } from "../audit/record-change.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import {
  advanceSink,
  buryEvent,
  endReplay,
  postponeSink,
  readNews,
  readReplays,
  releaseSink,
  settleReplay,
  type ClaimedSink,
  type DueEvent,
} from "./delivery-store.ts";
import type { EventSink } from "./event-sink.ts";
import { moveSink } from "./sink-store.ts";
import { readTip } from "./store.ts";

export interface DeliveryLimits {
  /** Longer than any sink's own time limit: a lease that lapses while its round still sends would let two send at once. */
  readonly leaseMs: number;
  readonly pageMax: number;
  readonly backoff: Backoff;
  /** So many failures in a row put an event among the dead letters. */
  readonly attemptsMax: number;
  /** A sink that took nothing for so long is disabled. */
  readonly disableAfterMs: number;
}
export const DELIVERY_LIMITS: DeliveryLimits = {
  leaseMs: 20_000,
  pageMax: 64,
  backoff: { firstMs: 1000, maxMs: 300_000 },
  attemptsMax: 12,
  disableAfterMs: 86_400_000,
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

/**
 * Delivers what is due at a sink that this round owns, one event after the other, in the order of positions. The states of an
 * event at a sink: ahead of the position → delivered (the position passes it), or → dead letter after `attemptsMax` failures in
 * a row, or at once when an earlier event of its aggregate is one → delivered by a replay, oldest first.
 *
 * At least once: a round that dies after the sink took an event and before the position moved sends it again. Never out of
 * order: the position moves only under the lease, and every step asks whether the lease is still ours.
 */
export async function deliverDue(deps: DeliveryDeps, round: Round): Promise<void> {
  const { claimed, limits, signal } = round;
  let { position } = claimed;
  let hasDelivered = false;
  try {
    for (;;) {
      // Read before the page: up to there nothing can come in between any more.
      const tip = await readTip(deps.sql);
      const replays = await readReplays(deps.sql, claimed, limits.pageMax);
      const page = replays.length > 0 ? replays : await readNews(deps.sql, { ...claimed, position }, limits.pageMax);
      for (const due of page) {
        signal.throwIfAborted();
        if (!(await deliverOne(deps, { ...round, hasDelivered }, due))) return;
        hasDelivered ||= !due.isBlocked;
      }
      if (replays.length > 0) continue;
      position = page.at(-1)?.position ?? position;
      if (page.length === limits.pageMax) continue;
      position = Math.max(tip, position);
      await advanceSink(deps.sql, { sink: claimed, position, leaseMs: limits.leaseMs, hasDelivered: false });
      return;
    }
  } catch (error) {
    if (!isAborted(error, signal)) throw error;
  } finally {
    await releaseSink(deps.sql, claimed);
  }
}

interface RoundSoFar extends Round {
  readonly hasDelivered: boolean;
}

/** False when the round is over: the event was not taken, or the sink is somebody else's now. */
async function deliverOne(deps: DeliveryDeps, round: RoundSoFar, due: DueEvent): Promise<boolean> {
  const { claimed, sink, limits, signal } = round;
  if (due.isBlocked) {
    const error = `an earlier event of ${due.event.aggregateId} is among the dead letters`;
    return await buryEvent(deps.sql, { sink: claimed, due, attempts: 0, error });
  }
  const delivery = await sink.deliver(due.event, signal);
  if (delivery.outcome === "delivered") {
    const step = { sink: claimed, position: due.position, leaseMs: limits.leaseMs };
    return due.isReplay
      ? await settleReplay(deps.sql, step)
      : await advanceSink(deps.sql, { ...step, hasDelivered: true });
  }
  await fail(deps, round, { due, error: delivery.error });
  return false;
}

/** After a dead letter the sink is free at once: its next event gets attempts of its own. */
async function fail(
  deps: DeliveryDeps,
  round: RoundSoFar,
  failure: { readonly due: DueEvent; readonly error: string },
): Promise<void> {
  const { claimed, limits } = round;
  const { due, error } = failure;
  // What came before it in this round was taken, so only the first in line carries attempts of earlier rounds.
  const attempts = (round.hasDelivered ? 0 : claimed.attempts) + 1;
  const fields = { webhookId: claimed.id, eventId: due.event.id, attempts, error };
  if ((claimed.failingForMs ?? 0) >= limits.disableAfterMs && !round.hasDelivered) {
    return await disable(deps, claimed, error);
  }
  if (attempts >= limits.attemptsMax) {
    deps.log.warn(fields, "event became a dead letter");
    const burial = { sink: claimed, due, attempts, error };
    await (due.isReplay ? endReplay(deps.sql, burial) : buryEvent(deps.sql, burial));
    return;
  }
  deps.log.debug(fields, "event was not delivered");
  const waitMs = backoffMs(limits.backoff, attempts, deps.random);
  await postponeSink(deps.sql, { sink: claimed, error, waitMs });
}

/** Its position stays: whoever enables it again misses nothing. */
async function disable(deps: DeliveryDeps, sink: ClaimedSink, error: string): Promise<void> {
  const reason = `It took nothing for too long: ${error}`;
  await inTransaction(deps.sql, async (tx) => {
    const version = await moveSink(tx, { id: sink.id, from: ["active"], to: "disabled", reason });
    if (version === undefined) return;
    await recordChange(tx, deps.clock, {
      actor: "system:event-relay",
      topic: "webhook.disabled",
      targetId: sink.id,
      targetVersion: version,
      projectId: sink.projectId,
      requestId: null,
      body: { reason },
    });
  });
  deps.log.warn({ webhookId: sink.id, error }, "webhook was disabled");
}
