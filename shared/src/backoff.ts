/** How a retry waits: doubling from `firstMs` up to `maxMs`, with full jitter so that a fleet does not move in step. */
export interface Backoff {
  readonly firstMs: number;
  readonly maxMs: number;
}

/**
 * The wait in milliseconds before retry number `attempt` (1 is the first retry).
 * `random` is in [0, 1); at least a tenth of the ceiling is waited, so that no retry spins.
 */
export function backoffMs(backoff: Backoff, attempt: number, random: () => number): number {
  const ceiling = Math.min(backoff.maxMs, backoff.firstMs * 2 ** Math.min(attempt - 1, 30));
  return Math.round(ceiling * (0.1 + 0.9 * random()));
}
