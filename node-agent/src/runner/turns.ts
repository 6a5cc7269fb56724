/** One task a slice at a time, different slices side by side up to a limit. First come, first served within a slice. */
export interface Turns {
  /** Resolves with the function that ends the turn; rejects with the signal's reason while waiting. */
  take(key: string, signal: AbortSignal): Promise<() => void>;
  /** The turn if nobody has it or waits for any; otherwise null, at once. */
  tryTake(key: string): (() => void) | null;
}

interface Waiting {
  readonly key: string;
  readonly start: () => void;
}

export function makeTurns(limit: number): Turns {
  const busy = new Set<string>();
  const waiting: Waiting[] = [];
  const end = (key: string): void => {
    busy.delete(key);
    startNext();
  };
  const startNext = (): void => {
    for (let index = 0; index < waiting.length && busy.size < limit;) {
      const next = waiting[index];
      if (next === undefined || busy.has(next.key)) {
        index += 1;
        continue;
      }
      waiting.splice(index, 1);
      busy.add(next.key);
      next.start();
    }
  };
  return {
    take: async (key, signal) => {
      signal.throwIfAborted();
      return await new Promise<() => void>((resolve, reject) => {
        const onAbort = (): void => {
          waiting.splice(waiting.indexOf(entry), 1);
          reject(signal.reason);
        };
        const entry: Waiting = {
          key,
          start: () => {
            signal.removeEventListener("abort", onAbort);
            resolve(() => end(key));
          },
        };
        signal.addEventListener("abort", onAbort, { once: true });
        waiting.push(entry);
        startNext();
      });
    },
    tryTake: (key) => {
      if (busy.has(key) || busy.size >= limit || waiting.length > 0) return null;
      busy.add(key);
      return () => end(key);
    },
  };
}
