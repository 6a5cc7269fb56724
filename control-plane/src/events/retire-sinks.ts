import type { Deps } from "../deps.ts";
import { runLoop, type LoopOptions } from "../loops/run-loop.ts";
import { disableSink } from "./disable-sink.ts";
import { readLaggingSinks } from "./sink-store.ts";

/** A sink holds events back from being dropped for so many days past their time, and no longer. */
const HOLD_DAYS_MAX = 7;
const INTERVAL_MS = 600_000;

/**
 * Events are kept for so many days; those that an active sink still has to deliver are held beyond that, which is told. A sink that
 * holds for too long is disabled with the reason, so that one receiver cannot fill the disk. May run anywhere, any number of times;
 * resolves with how many lag.
 */
export async function retireSinks(deps: Pick<Deps, "sql" | "clock" | "log">, keepDays: number): Promise<number> {
  const lagging = await readLaggingSinks(deps.sql, keepDays);
  for (const sink of lagging) {
    const { id: sinkId, daysBehind } = sink;
    if (daysBehind >= keepDays + HOLD_DAYS_MAX) {
      await disableSink(deps, sink, `It is ${daysBehind} days behind; events are kept for ${keepDays}.`);
    } else {
      deps.log.warn({ sinkId, daysBehind, keepDays }, "event sink holds back days that would be dropped");
    }
  }
  return lagging.length;
}

/** Every ten minutes, and at the start. */
export async function runSinkRetention(
  deps: Pick<Deps, "sql" | "clock" | "log">,
  options: LoopOptions & { readonly keepDays: number },
): Promise<void> {
  await runLoop(deps, options, {
    begin: "with a round",
    round: async () => `${await retireSinks(deps, options.keepDays)} sinks hold back days that would be dropped`,
    pause: async () => await deps.clock.sleep(INTERVAL_MS, options.signal),
    failure: "lagging event sinks were not looked at",
  });
}
