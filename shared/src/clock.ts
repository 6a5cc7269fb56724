/**
 * Time as a value you are given. Nothing else in the project reads a clock or sets a timer: code under a
 * simulated clock must behave as it does under the real one.
 */
export interface Clock {
  /** Wall-clock time. For people and certificates; never for leases or durations. */
  now(): Date;
  /** Milliseconds from an arbitrary start; never steps back. For leases, deadlines and durations. */
  monotonicMs(): number;
  /** Resolves after `ms`. Rejects with the signal's reason as soon as the signal aborts. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  /** Fills with random bytes, of which ids are made. Left out, the platform's secure source does it; a simulated world repeats its own. */
  fillRandom?(bytes: Uint8Array): void;
}

export const systemClock: Clock = {
  now: () => new Date(),
  monotonicMs: () => performance.now(),
  sleep: async (ms, signal) => {
    signal.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener("abort", onAbort);
        resolve();
      }, ms);
      signal.addEventListener("abort", onAbort, { once: true });
    });
  },
};

/** True for the rejection that an aborted wait ends with: loops end quietly on it, everything else is a failure. */
export function isAborted(error: unknown, signal: AbortSignal): boolean {
  return signal.aborted && (error === signal.reason || (error instanceof Error && error.name === "AbortError"));
}
