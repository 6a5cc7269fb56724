import { startKeptNode, type KeptNode } from "../../support/kept-node.ts";
import type { WorkerCounts } from "./rotate.ts";

/** Runs the agents of the state folders that it is given, and says how their polls went when it is asked. */
const nodes: KeptNode[] = [];
process.on("message", () => process.send?.(counts()));
for (const stateDir of process.argv.slice(2)) nodes.push(await startKeptNode(stateDir, { waitMs: 10_000 }));

function counts(): WorkerCounts {
  const failed: Record<string, number> = {};
  for (const { polls } of nodes) for (const [code, times] of polls.failed) failed[code] = (failed[code] ?? 0) + times;
  return { answered: nodes.reduce((sum, { polls }) => sum + polls.answered, 0), failed };
}
