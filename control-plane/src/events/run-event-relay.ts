import { randomUUID } from "node:crypto";
import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { EVENTS_TOPIC } from "../db/wake-bus.ts";
import { DELIVERY_LIMITS, deliverDue, type DeliveryDeps, type DeliveryLimits } from "./deliver-events.ts";
import { claimSink, type ClaimedSink } from "./delivery-store.ts";
import type { EventSink } from "./event-sink.ts";

/** How many sinks are served at once by one replica. */
const IN_FLIGHT_MAX = 16;
/** How long one wait lasts before the table is read again: what ends a backoff sends no hint. */
const RECHECK_MS = 250;
const FAILED_RETRY_MS = 1000;

export interface RelayDeps extends DeliveryDeps {
  /** What delivers to this row; throws when its secret cannot be opened. */
  openSink(claimed: ClaimedSink): EventSink;
  readonly limits?: DeliveryLimits;
}

/**
 * Brings events to the sinks, on every replica: each takes sinks that nobody is at, those first that wait the longest. So a slow
 * receiver delays itself alone, and many of them others by a turn each; the sinks of a replica that died are taken over when their
 * leases lapse. Resolves when what was under way has ended.
 */
export async function runEventRelay(
  deps: RelayDeps,
  options: { readonly signal: AbortSignal; onStatus(status: string): void },
): Promise<void> {
  const { signal } = options;
  const rounds = new Set<Promise<void>>();
  while (!signal.aborted) {
    try {
      const claimed = rounds.size < IN_FLIGHT_MAX ? await claimNext(deps) : undefined;
      options.onStatus(`${rounds.size} sinks are served`);
      if (claimed === undefined) await deps.wake.wait(EVENTS_TOPIC, RECHECK_MS, signal);
      else {
        const round = serve(deps, claimed, signal).finally(() => rounds.delete(round));
        rounds.add(round);
      }
    } catch (error) {
      if (isAborted(error, signal)) break;
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, "event relay round failed");
      options.onStatus(`waiting: ${describeError(error)}`);
      await deps.clock.sleep(FAILED_RETRY_MS, signal).catch((abort: unknown) => {
        if (!isAborted(abort, signal)) throw abort;
      });
    }
  }
  await Promise.all(rounds);
}

async function claimNext(deps: RelayDeps): Promise<ClaimedSink | undefined> {
  const { leaseMs } = deps.limits ?? DELIVERY_LIMITS;
  return await claimSink(deps.sql, { token: randomUUID(), leaseMs });
}

/** Never rejects: one sink's trouble is not another's. What failed here is tried again when the lease lapses. */
async function serve(deps: RelayDeps, claimed: ClaimedSink, signal: AbortSignal): Promise<void> {
  try {
    const sink = deps.openSink(claimed);
    await deliverDue(deps, { claimed, sink, limits: deps.limits ?? DELIVERY_LIMITS, signal });
  } catch (error) {
    if (!isDatabaseAway(error)) deps.log.error({ err: error, sinkId: claimed.id }, "event sink round failed");
  }
}
