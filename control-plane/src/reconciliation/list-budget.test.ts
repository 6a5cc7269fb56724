import { expect, test } from "vitest";
import { makeListBudget } from "./list-budget.ts";

test("a node that floods is refused after sixty lists, others are not, and it may go on a second later", () => {
  let nowMs = 0;
  const budget = makeListBudget({ monotonicMs: () => nowMs });
  for (let list = 0; list < 60; list += 1) budget.spend("one");
  expect(() => budget.spend("one")).toThrow(expect.objectContaining({ code: "rate_limited" }));
  budget.spend("two");
  nowMs += 1000;
  budget.spend("one");
  expect(() => budget.spend("one")).toThrow(expect.objectContaining({ code: "rate_limited" }));
});
