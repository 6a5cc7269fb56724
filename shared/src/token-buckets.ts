import type { Clock } from "./clock.ts";

export interface BucketLimits {
  /** So many at once, then so many a second. */
  readonly burst: number;
  readonly perSecond: number;
  /** Keys that are remembered; the one that took least recently is forgotten first, and begins with a full bucket again. */
  readonly keysMax: number;
}

/** How often something may happen, for each key by itself. */
export interface TokenBuckets {
  /** False when there is none, and nothing is taken. */
  take(key: string): boolean;
  /** Whether there is one. */
  has(key: string): boolean;
}

export function makeTokenBuckets(clock: Pick<Clock, "monotonicMs">, limits: BucketLimits): TokenBuckets {
  const { burst, perSecond, keysMax } = limits;
  const buckets = new Map<string, { readonly tokens: number; readonly atMs: number }>();
  const tokensOf = (key: string, nowMs: number): number => {
    const bucket = buckets.get(key);
    return bucket === undefined ? burst : Math.min(burst, bucket.tokens + ((nowMs - bucket.atMs) / 1000) * perSecond);
  };
  return {
    has: (key) => tokensOf(key, clock.monotonicMs()) >= 1,
    take: (key) => {
      const atMs = clock.monotonicMs();
      const tokens = tokensOf(key, atMs);
      if (tokens < 1) return false;
      // Taken out and put in again, so that the map is in the order of the last time.
      buckets.delete(key);
      buckets.set(key, { tokens: tokens - 1, atMs });
      const [oldest] = buckets.keys();
      if (buckets.size > keysMax && oldest !== undefined) buckets.delete(oldest);
      return true;
    },
  };
}
