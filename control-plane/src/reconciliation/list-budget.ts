import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";

/** Lists of one node: so many at once, then so many a second. An agent sends one a second at the most, and hardly ever. */
const PER_NODE = { burst: 60, perSecond: 1 };
const NODES_MAX = 50_000;

/**
 * A host that lies could say something else each time: what is written down of that (incidents, events, audit rows) can never be
 * deleted.
 */
export interface ListBudget {
  /** Throws `rate_limited` when the node has sent too many. */
  spend(nodeId: string): void;
}

export function makeListBudget(clock: Pick<Clock, "monotonicMs">): ListBudget {
  const nodes = new Map<string, { readonly left: number; readonly atMs: number }>();
  return {
    spend: (nodeId) => {
      const atMs = clock.monotonicMs();
      const before = nodes.get(nodeId) ?? { left: PER_NODE.burst, atMs };
      const left = Math.min(PER_NODE.burst, before.left + ((atMs - before.atMs) / 1000) * PER_NODE.perSecond);
      if (left < 1) throw new AppError("rate_limited", { detail: "Too many lists of slices. Wait a second." });
      nodes.delete(nodeId);
      nodes.set(nodeId, { left: left - 1, atMs });
      const [oldest] = nodes.keys();
      if (nodes.size > NODES_MAX && oldest !== undefined) nodes.delete(oldest);
    },
  };
}
