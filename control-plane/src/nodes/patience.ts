import { LEASE_TTL_MS, POLL_WAIT_MS_MAX } from "@hostler/shared/node-protocol.ts";

/**
 * How long a request of a node may wait for a database that is away, as shares of a lease: a poll as long as agents let it wait
 * anyway, all others half of the time after which an agent takes the way to us for a dead one.
 */
const SHARES = { poll: 5 / 6, other: 1 / 10 } as const;

export function patienceMs(request: keyof typeof SHARES, leaseTtlMs = LEASE_TTL_MS): number {
  return Math.min(POLL_WAIT_MS_MAX, leaseTtlMs * SHARES[request]);
}
