import { expect, test } from "vitest";
import { killOverAndOver } from "./postgres.ts";

/** The quick share of `pnpm chaos postgres`. */
test("a PostgreSQL that is killed under load costs time and nothing else", { timeout: 240_000 }, async () => {
  const lines: string[] = [];
  const say = (line: string): void => void lines.push(line);
  const size = { kills: 2, agents: 2, tenants: 3, pauseMs: [1000, 2000] as const };
  const outcome = await killOverAndOver({ ...size, runs: null, seed: 11, say });
  expect(outcome.figures, lines.join("\n")).toMatchObject({
    kills: 2,
    lost: 0,
    doubled: 0,
    slots_with_two_owners: 0,
    broken_books: 0,
    process_exits: 0,
    false_downs: 0,
  });
});
