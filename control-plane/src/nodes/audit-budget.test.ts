import { expect, test } from "vitest";
import { makeAuditBudget } from "./audit-budget.ts";

test("a flood leaves six hundred rows and then one a second, which says how many are missing", () => {
  let nowMs = 0;
  const budget = makeAuditBudget({ monotonicMs: () => nowMs });
  const flood = Array.from({ length: 10_000 }, () => budget.spend());
  expect(flood.filter((spent) => spent !== null)).toHaveLength(600);
  nowMs += 1000;
  expect(budget.spend()).toEqual({ omitted: 9400 });
  expect(budget.spend()).toBe(null);
  nowMs += 86_400_000;
  expect(budget.spend()).toEqual({ omitted: 1 });
  expect(Array.from({ length: 1000 }, () => budget.spend()).filter((spent) => spent !== null)).toHaveLength(599);
});
