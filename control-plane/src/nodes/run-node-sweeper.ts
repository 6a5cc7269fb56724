import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { sweepNodes, type SweepDeps } from "./sweep-nodes.ts";

const INTERVAL_MS = 3000;

/** Judges the nodes every three seconds. It runs on every replica; one at a time judges, another goes on when that one is gone. */
export async function runNodeSweeper(
  deps: SweepDeps,
  options: { readonly signal: AbortSignal; onStatus(status: string): void },
): Promise<void> {
  while (!options.signal.aborted) {
    try {
      await deps.clock.sleep(INTERVAL_MS, options.signal);
      const outcome = await sweepNodes(deps);
      options.onStatus(statusOf(outcome));
    } catch (error) {
      if (isAborted(error, options.signal)) return;
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, "nodes were not judged");
      options.onStatus(`waiting: ${describeError(error)}`);
    }
  }
}

function statusOf(outcome: Awaited<ReturnType<typeof sweepNodes>>): string {
  if (outcome === null) return "another replica judges";
  if (outcome.isGrace) return "listening: nobody is called down within a minute of a start or an outage";
  if (outcome.brake !== null) {
    const { silent, nodes, zone } = outcome.brake;
    return `braked: ${silent} of ${nodes} nodes of ${zone} are silent at once, none is called down`;
  }
  return `last round: ${outcome.down} down, ${outcome.back} back, ${outcome.drained} drained`;
}
