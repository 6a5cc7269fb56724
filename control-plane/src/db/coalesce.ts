import { isDatabaseAway } from "./pool.ts";

/** What became of one item of a batch: its own value or its own refusal. */
export type Outcome<Value> = { readonly value: Value } | { readonly error: unknown };

/** Runs a function for one item; what it throws becomes the item's outcome. */
export async function outcomeOf<Value>(work: () => Promise<Value>): Promise<Outcome<Value>> {
  try {
    return { value: await work() };
  } catch (error) {
    return { error };
  }
}

/**
 * Puts requests that come while a batch is under way into the next one. A single request runs at once and pays nothing; a
 * thousand a second share their round trips and their commit. It clocks itself: the slower the database, the larger the batches.
 *
 * `run` answers for each item in order. When it rejects as a whole, each item is run once more on its own, so that one that
 * cannot be written takes no other with it; `run` must therefore leave nothing behind when it rejects. Only a lost database is
 * everybody's.
 */
export function makeCoalescer<Item, Value>(options: {
  readonly batchMax: number;
  run(items: readonly Item[]): Promise<readonly Outcome<Value>[]>;
}): (item: Item) => Promise<Value> {
  let waiting: { readonly item: Item; settle(outcome: Outcome<Value>): void }[] = [];
  let isRunning = false;
  const runAll = async (): Promise<void> => {
    isRunning = true;
    while (waiting.length > 0) {
      const batch = waiting.slice(0, options.batchMax);
      waiting = waiting.slice(options.batchMax);
      const outcomes = await outcomesOf(
        options.run,
        batch.map(({ item }) => item),
      );
      for (const [index, { settle }] of batch.entries())
        settle(outcomes[index] ?? { error: new Error("the batch has no outcome for this item") });
    }
    isRunning = false;
  };
  return async (item) => {
    const { promise, resolve, reject } = Promise.withResolvers<Value>();
    waiting.push({ item, settle: (outcome) => ("error" in outcome ? reject(outcome.error) : resolve(outcome.value)) });
    if (!isRunning) void runAll();
    return await promise;
  };
}

async function outcomesOf<Item, Value>(
  run: (items: readonly Item[]) => Promise<readonly Outcome<Value>[]>,
  items: readonly Item[],
): Promise<readonly Outcome<Value>[]> {
  try {
    return await run(items);
  } catch (error) {
    if (items.length === 1 || isDatabaseAway(error)) return items.map(() => ({ error }));
    const alone: Outcome<Value>[] = [];
    for (const item of items) {
      const [outcome] = await outcomesOf(run, [item]);
      if (outcome !== undefined) alone.push(outcome);
    }
    return alone;
  }
}
