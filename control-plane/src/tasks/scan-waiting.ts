import { nodeTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { runLoop, type LoopOptions } from "../loops/run-loop.ts";
import { pauseAfterLook } from "./pause-after-look.ts";
import { findWaitingNodes } from "./store.ts";

/** A hint that was lost costs this much and no more, however many polls wait. */
const PAUSE = { leastMs: 250, mostMs: 2000 };

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
    pause: async () => await deps.clock.sleep(pauseAfterLook(tookMs, PAUSE), options.signal),
    failure: "scan of waiting tasks failed, soon again",
    round: async () => {
      if (!deps.wake.hasWaiters) return null;
      const beganMs = deps.clock.monotonicMs();
      const nodeIds = await findWaitingNodes(deps.sql);
      tookMs = deps.clock.monotonicMs() - beganMs;
      for (const nodeId of nodeIds) deps.wake.wakeHere(nodeTopic(nodeId));
      return `${nodeIds.size} nodes have tasks to take`;
    },
  });
}
