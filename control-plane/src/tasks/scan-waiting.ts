import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { findWaitingNodes } from "./store.ts";

/** A hint that was lost costs this much and no more, however many polls wait. */
const INTERVAL_MS = 250;

/**
 * The third layer of wake-ups, below the one in memory and the one between replicas: one look at the tables for all polls of this
 * replica. It asks for what is there, not for what is new, so nothing can be missed: a node is woken until its tasks are taken.
 */
export async function scanWaiting(
  deps: Pick<Deps, "sql" | "clock" | "wake" | "log">,
  options: { readonly signal: AbortSignal; onStatus(status: string): void },
): Promise<void> {
  while (!options.signal.aborted) {
    try {
      await deps.clock.sleep(INTERVAL_MS, options.signal);
      if (!deps.wake.hasWaiters) continue;
      const nodeIds = await findWaitingNodes(deps.sql);
      for (const nodeId of nodeIds) deps.wake.wakeHere(nodeTopic(nodeId));
      options.onStatus(`${nodeIds.length} nodes have tasks to take`);
    } catch (error) {
      if (isAborted(error, options.signal)) return;
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, "scan of waiting tasks failed, soon again");
      options.onStatus(`waiting: ${describeError(error)}`);
    }
  }
}
