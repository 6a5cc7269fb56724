import { expect, test } from "vitest";
import { killWhileJoining } from "./enrol.ts";

/** The quick share of `pnpm chaos enrol`. */
test("a few kills of either side leave one valid identity each", { timeout: 120_000 }, async () => {
  const lines: string[] = [];
  const outcome = await killWhileJoining({ runs: 4, seed: 7, say: (line) => void lines.push(line) });
  expect(outcome.figures, lines.join("\n")).toMatchObject({
    valid_identities: 4,
    lost_tokens: 0,
    wrong_runs: 0,
    orphan_certificates: 0,
  });
});
