import { runLoop, type LoopOptions } from "../loops/run-loop.ts";
import { sweepNodes, type SweepDeps } from "./sweep-nodes.ts";

const INTERVAL_MS = 3000;

/** Judges the nodes every three seconds. It runs on every replica; one at a time judges, another goes on when that one is gone. */
export async function runNodeSweeper(deps: SweepDeps, options: LoopOptions): Promise<void> {
  await runLoop(deps, options, {
    begin: "with a pause",
    pause: async () => await deps.clock.sleep(INTERVAL_MS, options.signal),
    failure: "nodes were not judged",
    round: async () => statusOf(await sweepNodes(deps)),
  });
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
