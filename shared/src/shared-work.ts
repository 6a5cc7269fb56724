/** What a waiter brings: when it stops waiting, and where it wants to hear how far the work is. */
export interface Waiter {
  readonly signal: AbortSignal;
  report(message: string): void;
}

/** Work that many may want at once and that is done once. */
export interface SharedWork<Result> {
  /** Joins the work under this key or starts it. The work is aborted when its last waiter has left. */
  join(key: string, waiter: Waiter, work: (shared: Waiter) => Promise<Result>): Promise<Result>;
}

interface Running<Result> {
  readonly waiters: Set<Waiter>;
  readonly stop: AbortController;
  readonly result: Promise<Result>;
}

export function makeSharedWork<Result>(): SharedWork<Result> {
  const running = new Map<string, Running<Result>>();
  const start = (key: string, work: (shared: Waiter) => Promise<Result>): Running<Result> => {
    const waiters = new Set<Waiter>();
    const stop = new AbortController();
    const report = (message: string): void => {
      for (const waiter of waiters) waiter.report(message);
    };
    const result = work({ signal: stop.signal, report }).finally(() => running.delete(key));
    result.catch(() => "Each waiter hears of it.");
    const started = { waiters, stop, result };
    running.set(key, started);
    return started;
  };
  return {
    join: async (key, waiter, work) => {
      waiter.signal.throwIfAborted();
      for (let found = running.get(key); found?.stop.signal.aborted === true; found = running.get(key)) {
        // Everybody has left it, but it still winds up: two at once would write the same file.
        await settled(found.result, waiter.signal);
      }
      const shared = running.get(key) ?? start(key, work);
      shared.waiters.add(waiter);
      try {
        return await unlessAborted(shared.result, waiter.signal);
      } finally {
        shared.waiters.delete(waiter);
        if (shared.waiters.size === 0) shared.stop.abort(new Error("nobody waits for it any more"));
      }
    },
  };
}

async function settled(result: Promise<unknown>, signal: AbortSignal): Promise<void> {
  await unlessAborted(
    result.then(
      () => undefined,
      () => undefined,
    ),
    signal,
  );
}

async function unlessAborted<Result>(result: Promise<Result>, signal: AbortSignal): Promise<Result> {
  signal.throwIfAborted();
  const left = new AbortController();
  const aborted = new Promise<never>((_resolve, reject) =>
    signal.addEventListener("abort", () => reject(signal.reason), { signal: left.signal }),
  );
  aborted.catch(() => "Thrown below.");
  try {
    return await Promise.race([result, aborted]);
  } finally {
    left.abort();
  }
}
