import { expect, test } from "vitest";
import { revokeLiveNodes } from "./revoke.ts";

/** The quick share of `pnpm chaos revoke`. */
test("a few live hosts are cut and told why, across replicas", { timeout: 120_000 }, async () => {
  const lines: string[] = [];
  const outcome = await revokeLiveNodes({ nodes: 6, runs: null, seed: 7, say: (line) => void lines.push(line) });
  expect(outcome.figures, lines.join("\n")).toMatchObject({ live_nodes: 6, accepted_after: 0, told_why: 6 });
});
