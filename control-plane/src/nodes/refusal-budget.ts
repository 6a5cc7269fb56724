import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { makeTokenBuckets } from "@hostler/shared/token-buckets.ts";

/** Refused attempts of one address. */
const REFUSALS = { burst: 300, perSecond: 2, keysMax: 10_000 };

/**
 * Only what is refused counts: a rack of hosts behind one address enrols as fast as it likes, somebody who tries tokens does not.
 */
export interface RefusalBudget {
  /** Throws `rate_limited` when the address was refused too often. */
  judge(address: string): void;
  noteRefusal(address: string): void;
}

export function makeRefusalBudget(clock: Pick<Clock, "monotonicMs">): RefusalBudget {
  const addresses = makeTokenBuckets(clock, REFUSALS);
  return {
    judge: (address) => {
      if (!addresses.has(address))
        throw new AppError("rate_limited", { detail: "This address was refused too often. Wait a few minutes." });
    },
    noteRefusal: (address) => void addresses.take(address),
  };
}
