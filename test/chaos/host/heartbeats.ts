import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { telemetrySeriesSchema } from "@hostler/shared/api/nodes.ts";
import type { Stage } from "./stage.ts";

const LOOK_MS = 500;

/** Watches the samples that the agent sends every ten seconds: an agent that stands still sends none. */
export function watchHeartbeats({ cloud }: Pick<Stage, "cloud">): { stop(): Promise<number> } {
  const stopping = new AbortController();
  let longestMs = 0;
  const watch = async (): Promise<void> => {
    let last = "";
    let changedMs = systemClock.monotonicMs();
    while (!stopping.signal.aborted) {
      const series = await cloud.operator.get(
        `/api/ops/v1/nodes/${cloud.node.id}/telemetry?sinceSeconds=60`,
        telemetrySeriesSchema,
      );
      const newest = series.samples.at(-1)?.at ?? "";
      const nowMs = systemClock.monotonicMs();
      if (newest !== last) changedMs = nowMs;
      last = newest;
      longestMs = Math.max(longestMs, nowMs - changedMs);
      await systemClock.sleep(LOOK_MS, stopping.signal).catch(() => "It is over.");
    }
  };
  const watching = watch();
  return {
    stop: async () => {
      stopping.abort(new Error("over"));
      await watching;
      const { online } = await cloud.operator.get(`/api/ops/v1/nodes/${cloud.node.id}`, nodeSchema);
      return online ? Math.round(longestMs) : Number.POSITIVE_INFINITY;
    },
  };
}
