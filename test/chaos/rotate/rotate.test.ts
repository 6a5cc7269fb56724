import { expect, test } from "vitest";
import { rotateUnderAgents } from "./rotate.ts";

/** The quick share of `pnpm chaos rotate`. */
test("one rotation under a few agents fails no poll, and a sleeper returns", { timeout: 120_000 }, async () => {
  const lines: string[] = [];
  const outcome = await rotateUnderAgents({
    agents: 8,
    rotations: 1,
    everyMs: 0,
    runs: null,
    seed: 7,
    say: (line) => void lines.push(line),
  });
  expect(outcome.figures, lines.join("\n")).toMatchObject({ failed_polls: 0, sleeper_returned: 1 });
});
