import { quantile } from "../../support/suite.ts";

const ROUNDS = 5;
const ROUND_MS = 600;
const DURATIONS = 3000;
const WARM_UP = 200;

/** How often a second the work is done: the median of several rounds, after one that does not count. */
export async function ratePerSecond(work: () => unknown): Promise<number> {
  const rates: number[] = [];
  for (let round = 0; round <= ROUNDS; round += 1) {
    const startedMs = performance.now();
    let done = 0;
    while (performance.now() - startedMs < ROUND_MS) {
      await work();
      done += 1;
    }
    if (round > 0) rates.push((done * 1000) / (performance.now() - startedMs));
  }
  return rounded(quantile(rates, 0.5));
}

export interface Durations {
  readonly median: number;
  readonly p99: number;
}

/** How long one piece of work takes, in microseconds. */
export async function durationsUs(work: () => Promise<unknown>): Promise<Durations> {
  const durations: number[] = [];
  for (let time = 0; time < DURATIONS + WARM_UP; time += 1) {
    const startedMs = performance.now();
    await work();
    if (time >= WARM_UP) durations.push((performance.now() - startedMs) * 1000);
  }
  return { median: rounded(quantile(durations, 0.5)), p99: rounded(quantile(durations, 0.99)) };
}

/** Does the work for each item, so many at once; how many items a second. */
export async function throughput<Item>(
  items: readonly Item[],
  options: { readonly atOnce: number; work(item: Item): Promise<unknown> },
): Promise<number> {
  const queue = items.values();
  const startedMs = performance.now();
  const workers = Array.from({ length: options.atOnce }, async () => {
    for (const item of queue) await options.work(item);
  });
  await Promise.all(workers);
  return (items.length * 1000) / (performance.now() - startedMs);
}

export function rounded(value: number): number {
  return value >= 100 ? Math.round(value) : Math.round(value * 10) / 10;
}
