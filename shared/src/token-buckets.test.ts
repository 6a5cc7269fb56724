import { expect, test } from "vitest";
import { makeTokenBuckets } from "./token-buckets.ts";

test("a key has its burst at once and then its rate, whatever the others do", () => {
  let nowMs = 0;
  const buckets = makeTokenBuckets({ monotonicMs: () => nowMs }, { burst: 3, perSecond: 2, keysMax: 10 });
  const takenBy = (key: string): number => Array.from({ length: 10 }, () => buckets.take(key)).filter(Boolean).length;
  expect([takenBy("a"), takenBy("b")]).toEqual([3, 3]);
  expect(buckets.has("a")).toBe(false);
  nowMs += 499;
  expect(takenBy("a")).toBe(0);
  nowMs += 1;
  expect(buckets.has("a")).toBe(true);
  expect(takenBy("a")).toBe(1);
  nowMs += 86_400_000;
  expect(takenBy("a")).toBe(3);
});

test("what nobody asked for the longest is forgotten first, and only then", () => {
  const buckets = makeTokenBuckets({ monotonicMs: () => 0 }, { burst: 2, perSecond: 1, keysMax: 2 });
  for (const key of ["old", "old", "new", "new"]) buckets.take(key);
  expect([buckets.has("old"), buckets.has("new")]).toEqual([false, false]);
  buckets.take("third");
  expect([buckets.has("old"), buckets.has("new")]).toEqual([true, false]);
});
