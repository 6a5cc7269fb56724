import { backoffMs } from "@hostler/shared/backoff.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { Log } from "../log.ts";
import type { Loop } from "./supervise.ts";

/**
 * Renews the node's certificate at the time that the control plane named, about half of its life, so that there are
 * hours for retries. The identity room does the work; the new certificate is in use before `renew` resolves.
 */
export function renewalLoop(deps: {
  readonly renewAt: () => Date;
  /** Resolves when `renewAt` changes. */
  readonly renewalChanged: () => Promise<void>;
  readonly expiresAt: () => Date;
  readonly renew: (signal: AbortSignal) => Promise<void>;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
}): Loop {
  const { renewAt, expiresAt, renew, clock, log } = deps;
  return {
    name: "renewal",
    run: async (setStatus, signal) => {
      for (let failures = 0; ;) {
        const waitMs = renewAt().getTime() - clock.now().getTime();
        if (waitMs > 0) {
          setStatus(`next renewal at ${renewAt().toISOString()}`);
          // In steps: the wall clock may be set while we wait.
          await waitFor(deps, Math.min(waitMs, STEP_MS), signal);
          continue;
        }
        try {
          await renew(signal);
          failures = 0;
          log.info({ renewAt: renewAt().toISOString() }, "certificate renewed");
        } catch (error) {
          signal.throwIfAborted();
          failures += 1;
          log.warn(
            { failures, expiresAt: expiresAt().toISOString(), error: describeError(error) },
            "certificate not renewed, will retry",
          );
          setStatus(`not renewed, expires at ${expiresAt().toISOString()}: ${describeError(error)}`);
          await clock.sleep(backoffMs(RETRY, failures, deps.random), signal);
        }
      }
    },
  };
}

async function waitFor(
  deps: { readonly clock: Clock; readonly renewalChanged: () => Promise<void> },
  ms: number,
  signal: AbortSignal,
): Promise<void> {
  const over = new AbortController();
  try {
    await Promise.race([deps.renewalChanged(), deps.clock.sleep(ms, AbortSignal.any([signal, over.signal]))]);
  } finally {
    over.abort(new Error("over"));
  }
}

const STEP_MS = 60_000;
const RETRY = { firstMs: 5000, maxMs: 5 * 60_000 };
