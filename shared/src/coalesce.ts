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
 * cannot be written takes no other with it; `run` must therefore leave nothing behind when it rejects. Only what `isEverybodys`
 * says is everybody's, such as a lost database.
 */
export function makeCoalescer<Item, Value>(options: {
  readonly batchMax: number;
  run(items: readonly Item[]): Promise<readonly Outcome<Value>[]>;
  isEverybodys(error: unknown): boolean;
}): (item: Item) => Promise<Value> {
  let waiting: { readonly item: Item; settle(outcome: Outcome<Value>): void }[] = [];
  let isRunning = false;
  const runAll = async (): Promise<void> => {
    isRunning = true;
    while (waiting.length > 0) {
      const batch = waiting.slice(0, options.batchMax);
      waiting = waiting.slice(options.batchMax);
      const outcomes = await outcomesOf(
        options,
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
  options: Pick<Parameters<typeof makeCoalescer<Item, Value>>[0], "run" | "isEverybodys">,
  items: readonly Item[],
): Promise<readonly Outcome<Value>[]> {
  try {
    return await options.run(items);
  } catch (error) {
    if (items.length === 1 || options.isEverybodys(error)) return items.map(() => ({ error }));
    const alone: Outcome<Value>[] = [];
    for (const item of items) {
      const [outcome] = await outcomesOf(options, [item]);
      if (outcome !== undefined) alone.push(outcome);
    }
    return alone;
  }
}

/** The value of the only item of a batch; throws its refusal. */
export function onlyOutcome<Value>(outcomes: readonly Outcome<Value>[]): Value {
  const [outcome] = outcomes;
  if (outcome === undefined) throw new Error("a batch of one has one outcome");
  if ("error" in outcome) throw outcome.error;
  return outcome.value;
}
