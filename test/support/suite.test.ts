import { expect, test } from "vitest";
import { makeRandom, quantile } from "./suite.ts";

test("a quantile is a number of the set, the median of an odd set its middle", () => {
  expect(quantile([9, 1, 5], 0.5)).toBe(5);
  expect(quantile([1, 2, 3, 4], 0.99)).toBe(4);
  expect(quantile([], 0.5)).toBeNaN();
});

test("the same seed gives the same numbers, another seed others", () => {
  const take = (seed: number): number[] => Array.from({ length: 5 }, makeRandom(seed));
  expect(take(7)).toEqual(take(7));
  expect(take(7)).not.toEqual(take(8));
  for (const number of take(9)) expect(number >= 0 && number < 1).toBe(true);
});
