import { expect, test } from "vitest";
import { agentFromAll, replicaFromDatabase } from "./cases.ts";
import { partition, partitionSuite } from "./partition.ts";

const isRoot = process.getuid?.() === 0;
const lines: string[] = [];
const options = { runs: null, seed: 1, say: (line: string): void => void lines.push(line) };

/** The quick share of `pnpm chaos partition`. */
test.runIf(isRoot)(
  "a host that is cut off stops before its lease ends, and what it held is held once",
  { timeout: 240_000 },
  async () => {
    const outcome = await partition({
      ...options,
      size: { direct: 2, viaProxy: 0 },
      wavesOf: (cloud) => [agentFromAll(cloud), replicaFromDatabase(cloud).slice(0, 1)],
      withListenLoss: false,
    });
    expect(outcome.figures, lines.join("\n")).toMatchObject({
      cases: 3,
      cases_failed: 0,
      slots_with_two_owners: 0,
      self_stop_late: 0,
    });
  },
);

test.runIf(!isRoot)("without root, partitions are NOT tested here: the suite says why it cannot", async () => {
  await expect(partitionSuite.run(options)).rejects.toThrow("Network namespaces need root");
});
