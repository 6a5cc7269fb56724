import type { Clock } from "./clock.ts";

/**
 * Ends work that takes longer than `ms`: its signal aborts, and the promise rejects even where the work cannot be called off,
 * such as a question to the resolver. With timers that keep the process: those of AbortSignal.timeout do not, and a doctor
 * that waits for nothing else would end in mid-sentence. `tooLate`: what it rejects with.
 */
export async function within<Value>(
  clock: Clock,
  ms: number,
  work: (signal: AbortSignal) => Promise<Value>,
  tooLate = (): Error => new Error(`no answer within ${(Math.max(0, ms) / 1000).toFixed(1)} s`),
): Promise<Value> {
  const limit = new AbortController();
  const done = new AbortController();
  const late = clock.sleep(Math.max(0, ms), done.signal).then(
    () => {
      limit.abort(tooLate());
      throw limit.signal.reason;
    },
    // The work was faster: what it gave is the result.
    async () => await new Promise<never>(() => undefined),
  );
  try {
    return await Promise.race([work(limit.signal), late]);
  } finally {
    done.abort();
  }
}
