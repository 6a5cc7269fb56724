import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";

/**
 * How long this agent may act on a task. Counted in monotonic time from when the request that granted or renewed it was
 * sent, so it always ends here before it ends at the control plane, whatever the network did to the answer.
 */
export interface Lease {
  /** Time left to act in, the safety margin taken off; 0 or less means over. */
  remainingMs(): number;
  /** Renewed for the given time by a request sent at that monotonic time. A late answer never shortens it. */
  extend(sentAtMs: number, ttlMs: number): void;
  readonly ttlMs: number;
  /** Resolves when the lease is over; rejects with the signal's reason. */
  over(signal: AbortSignal): Promise<void>;
}

/** The share of the time to live kept unused: what was begun just before the end must still end in time. */
const MARGIN_SHARE = 0.1;

export function makeLease(clock: Clock, granted: { readonly sentAtMs: number; readonly ttlMs: number }): Lease {
  let ttlMs = granted.ttlMs;
  let endsAtMs = endOf(granted.sentAtMs, ttlMs);
  const remainingMs = (): number => endsAtMs - clock.monotonicMs();
  return {
    remainingMs,
    get ttlMs() {
      return ttlMs;
    },
    extend: (sentAtMs, newTtlMs) => {
      ttlMs = newTtlMs;
      endsAtMs = Math.max(endsAtMs, endOf(sentAtMs, newTtlMs));
    },
    over: async (signal) => {
      for (let waitMs = remainingMs(); waitMs > 0; waitMs = remainingMs()) await clock.sleep(waitMs, signal);
    },
  };
}

export function leaseLost(detail: string): AppError {
  return new AppError("lease_lost", { detail });
}

function endOf(sentAtMs: number, ttlMs: number): number {
  return sentAtMs + ttlMs * (1 - MARGIN_SHARE);
}
