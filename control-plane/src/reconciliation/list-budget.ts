import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { makeTokenBuckets } from "@hostler/shared/token-buckets.ts";

/** Lists of one node: an agent sends one a second at the most, and hardly ever. */
const LISTS = { burst: 60, perSecond: 1, keysMax: 50_000 };

/**
 * A host that lies could say something else each time: what is written down of that (incidents, events, audit rows) can never be
 * deleted.
 */
export interface ListBudget {
  /** Throws `rate_limited` when the node has sent too many. */
  spend(nodeId: string): void;
}

export function makeListBudget(clock: Pick<Clock, "monotonicMs">): ListBudget {
  const nodes = makeTokenBuckets(clock, LISTS);
  return {
    spend: (nodeId) => {
      if (!nodes.take(nodeId))
        throw new AppError("rate_limited", { detail: "Too many lists of slices. Wait a second." });
    },
  };
}
