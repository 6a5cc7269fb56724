import { expect, test } from "vitest";
import { makeCoalescer, type Outcome } from "./coalesce.ts";

/** A batch runs until the test lets it end. */
function makeHeld(answer: (items: readonly number[]) => Outcome<number>[]) {
  const batches: { items: readonly number[]; end(): void }[] = [];
  const add = makeCoalescer<number, number>({
    batchMax: 3,
    isEverybodys: () => false,
    run: async (items) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      batches.push({ items, end: resolve });
      await promise;
      return answer(items);
    },
  });
  return { add, batches, turn: async () => await new Promise((resolve) => setImmediate(resolve)) };
}

test("a request that comes alone goes at once; those that come meanwhile go together, so many at most", async () => {
  const { add, batches, turn } = makeHeld((items) => items.map((value) => ({ value: value * 10 })));
  const answers = [1, 2, 3, 4, 5].map(async (item) => await add(item));
  expect(batches.map(({ items }) => items)).toEqual([[1]]);
  batches[0]?.end();
  await turn();
  expect(batches.map(({ items }) => items)).toEqual([[1], [2, 3, 4]]);
  batches[1]?.end();
  await turn();
  batches[2]?.end();
  expect(await Promise.all(answers)).toEqual([10, 20, 30, 40, 50]);
  const later = add(6);
  expect(batches[3]?.items).toEqual([6]);
  batches[3]?.end();
  expect(await later).toBe(60);
});

test("each item has its own refusal", async () => {
  const { add, batches, turn } = makeHeld((items) =>
    items.map((value) => (value === 3 ? { error: new Error("not three") } : { value })),
  );
  const answers = [1, 2, 3].map(async (item) => await add(item));
  batches[0]?.end();
  await turn();
  batches[1]?.end();
  expect((await Promise.allSettled(answers)).map(({ status }) => status)).toEqual([
    "fulfilled",
    "fulfilled",
    "rejected",
  ]);
});

test("an item that cannot be written takes no other with it", async () => {
  const seen: (readonly number[])[] = [];
  const add = makeCoalescer<number, number>({
    batchMax: 8,
    isEverybodys: () => false,
    run: async (items) => {
      seen.push(items);
      await Promise.resolve();
      if (items.includes(3)) throw new Error("the database does not take three");
      return items.map((value) => ({ value }));
    },
  });
  const answers = await Promise.allSettled([1, 2, 3, 4].map(async (item) => await add(item)));
  expect(answers.map(({ status }) => status)).toEqual(["fulfilled", "fulfilled", "rejected", "fulfilled"]);
  expect(seen).toEqual([[1], [2, 3, 4], [2], [3], [4]]);
});

test("what is everybody's is not tried once more for each", async () => {
  let runs = 0;
  const add = makeCoalescer<number, number>({
    batchMax: 8,
    isEverybodys: (error) => error instanceof Error && error.message === "away",
    run: async () => {
      runs += 1;
      await Promise.resolve();
      throw new Error("away");
    },
  });
  const answers = await Promise.allSettled([1, 2, 3, 4].map(async (item) => await add(item)));
  expect(answers.every(({ status }) => status === "rejected")).toBe(true);
  expect(runs).toBe(2);
});
