import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";

/** How long an aborted piece of work may take to wind up before it is left behind. */
const GRACE_MS = 2000;

/**
 * Runs `work` until it ends, until one of `signals` aborts or until the time is up; then it rejects with the reason.
 * Work that does not react to its signal is left behind after a short grace and never waited for: a write to sysfs can
 * hang for ever. What such work still does must be harmless to repeat.
 */
export async function withDeadline<Result>(
  options: {
    readonly clock: Clock;
    readonly timeoutMs: number;
    readonly what: string;
    readonly signals: readonly AbortSignal[];
  },
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const { clock, timeoutMs, what } = options;
  const timeUp = new AbortController();
  const ended = new AbortController();
  const signal = AbortSignal.any([...options.signals, timeUp.signal]);
  signal.throwIfAborted();
  void clock.sleep(timeoutMs, ended.signal).then(
    () =>
      timeUp.abort(new AppError("command_timeout", { detail: `${what} did not end within ${timeoutMs / 1000} s.` })),
    () => "The work ended first.",
  );
  const leftBehind = new Promise<never>((_resolve, reject) => {
    signal.addEventListener(
      "abort",
      () => void clock.sleep(GRACE_MS, ended.signal).then(() => reject(signal.reason), reject),
      { once: true, signal: ended.signal },
    );
  });
  try {
    return await Promise.race([work(signal), leftBehind]);
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  } finally {
    ended.abort(new Error("ended"));
    leftBehind.catch(() => "Its reason was thrown above.");
  }
}
