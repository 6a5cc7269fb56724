import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";

/** Refused attempts of one address: so many at once, then so many a second. */
const PER_ADDRESS = { burst: 300, perSecond: 2 };
const ADDRESSES_MAX = 10_000;

/**
 * Only what is refused counts: a rack of hosts behind one address enrols as fast as it likes, somebody who tries tokens does not.
 */
export interface RefusalBudget {
  /** Throws `rate_limited` when the address was refused too often. */
  judge(address: string): void;
  noteRefusal(address: string): void;
}

export function makeRefusalBudget(clock: Clock): RefusalBudget {
  const spent = new Map<string, { readonly count: number; readonly atMs: number }>();
  const countOf = (address: string): number => {
    const record = spent.get(address);
    if (record === undefined) return 0;
    return Math.max(0, record.count - ((clock.monotonicMs() - record.atMs) / 1000) * PER_ADDRESS.perSecond);
  };
  return {
    judge: (address) => {
      if (countOf(address) >= PER_ADDRESS.burst)
        throw new AppError("rate_limited", { detail: "This address was refused too often. Wait a few minutes." });
    },
    noteRefusal: (address) => {
      const count = countOf(address) + 1;
      spent.delete(address);
      spent.set(address, { count, atMs: clock.monotonicMs() });
      const [oldest] = spent.keys();
      if (spent.size > ADDRESSES_MAX && oldest !== undefined) spent.delete(oldest);
    },
  };
}
