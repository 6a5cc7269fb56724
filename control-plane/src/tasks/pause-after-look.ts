const PAUSES_PER_LOOK = 20;

/**
 * How long nobody looks at the whole table of tasks after a look that took so long. While vacuum is held back, it is full of rows of
 * tasks that have ended: looking takes a twentieth of a connection and no more. All in milliseconds.
 */
export function pauseAfterLook(tookMs: number, limits: { readonly leastMs: number; readonly mostMs: number }): number {
  return Math.max(limits.leastMs, Math.min(tookMs * PAUSES_PER_LOOK, limits.mostMs));
}
