import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Deps } from "../deps.ts";

/** What the composition root gives to each loop. */
export interface LoopOptions {
  /** Ends the loop, which resolves then. */
  readonly signal: AbortSignal;
  /** One line, which `/healthz` shows. */
  onStatus(status: string): void;
}

export interface Loop {
  readonly begin: "with a round" | "with a pause";
  /** Resolves with a line for the status; null leaves the one before. */
  round(): Promise<string | null>;
  /** What lies between two rounds; rejects when the signal aborts. */
  pause(): Promise<unknown>;
  /** What the log says of a round that failed. */
  readonly failure: string;
}

/**
 * One round after the other until the signal aborts. A round that fails is told in the status, and in the log unless it was the
 * database that was away, which others log already; the next one comes after the usual pause. For loops that need no more than that:
 * those that hold work, or wait for something else after a failure, have their own.
 */
export async function runLoop(deps: Pick<Deps, "log">, options: LoopOptions, loop: Loop): Promise<void> {
  const { signal, onStatus } = options;
  const pause = async (): Promise<void> => {
    await loop.pause().catch((error: unknown) => {
      if (!isAborted(error, signal)) throw error;
    });
  };
  if (loop.begin === "with a pause") await pause();
  while (!signal.aborted) {
    try {
      const status = await loop.round();
      if (status !== null) onStatus(status);
    } catch (error) {
      if (isAborted(error, signal)) return;
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, loop.failure);
      onStatus(`waiting: ${describeError(error)}`);
    }
    await pause();
  }
}
