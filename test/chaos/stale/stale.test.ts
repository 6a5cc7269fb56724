import { expect, test } from "vitest";
import { actStale } from "./stale.ts";

/** The quick share of `pnpm chaos stale`. */
test("nothing under a lease that ended is taken, and the true holder never notices", { timeout: 120_000 }, async () => {
  const lines: string[] = [];
  const outcome = await actStale({ attempts: 200, runs: null, seed: 7, say: (line) => void lines.push(line) });
  expect(outcome.figures, lines.join("\n")).toMatchObject({
    stale_accepted: 0,
    other_refusals: 0,
    true_holder_undisturbed: 1,
  });
});
