import type { Clock } from "@hostler/shared/clock.ts";

/**
 * Ends work that takes longer than `ms`: its signal aborts, and the promise rejects even where the work cannot be called off,
 * such as a question to the resolver. With timers that keep the process: those of AbortSignal.timeout do not, and a doctor
 * that waits for nothing else would end in mid-sentence.
 */
export async function within<Value>(
  clock: Clock,
  ms: number,
  work: (signal: AbortSignal) => Promise<Value>,
): Promise<Value> {
  const limit = new AbortController();
  const done = new AbortController();
  const tooLate = clock.sleep(Math.max(0, ms), done.signal).then(
    () => {
      limit.abort(new Error(`no answer within ${(Math.max(0, ms) / 1000).toFixed(1)} s`));
      throw limit.signal.reason;
    },
    // The work was faster: what it gave is the result.
    async () => await new Promise<never>(() => undefined),
  );
  try {
    return await Promise.race([work(limit.signal), tooLate]);
  } finally {
    done.abort();
  }
}
