import { nodeTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { runLoop, type LoopOptions } from "../loops/run-loop.ts";
import { findWaitingNodes } from "./store.ts";

/** A hint that was lost costs this much and no more, however many polls wait. */
const INTERVAL_MS = 250;
/** Under load the index is full of tasks that were taken: a scan takes a twentieth of a connection and no more. */
const PAUSE = { perScanMs: 20, maxMs: 2000 };

/**
 * The third layer of wake-ups, below the one in memory and the one between replicas: one look at the tables for all polls of this
 * replica. It asks for what is there, not for what is new, so nothing can be missed: a node is woken until its tasks are taken.
 */
export async function scanWaiting(
  deps: Pick<Deps, "sql" | "clock" | "wake" | "log">,
  options: LoopOptions,
): Promise<void> {
  let tookMs = 0;
  await runLoop(deps, options, {
    begin: "with a pause",
    pause: async () => {
      const longMs = Math.min(tookMs * PAUSE.perScanMs, PAUSE.maxMs);
      await deps.clock.sleep(Math.max(INTERVAL_MS, longMs), options.signal);
    },
    failure: "scan of waiting tasks failed, soon again",
    round: async () => {
      if (!deps.wake.hasWaiters) return null;
      const beganMs = deps.clock.monotonicMs();
      const nodeIds = await findWaitingNodes(deps.sql);
      tookMs = deps.clock.monotonicMs() - beganMs;
      for (const nodeId of nodeIds) deps.wake.wakeHere(nodeTopic(nodeId));
      return `${nodeIds.length} nodes have tasks to take`;
    },
  });
}
