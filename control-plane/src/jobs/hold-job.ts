import { describeError } from "@hostler/shared/errors.ts";
import { isAborted } from "@hostler/shared/clock.ts";
import { operationTopic } from "../db/wake-bus.ts";
import type { JobDeps, JobLimits } from "./job-kind.ts";
import { renewJobLease, type Held } from "./store.ts";

/** Why a running job has to stop. `out_of_touch`: the lease could not be renewed and may end soon. */
export type StopReason = "cancelled" | "lease_lost" | "out_of_touch" | "stopping";

export interface Hold {
  /** Aborts when the job has to stop. */
  readonly signal: AbortSignal;
  stopReason(): StopReason | null;
  /** Ends the renewals. What was said of the job before this stays true. */
  close(): Promise<void>;
}

/**
 * Keeps a job's lease for as long as it runs, and hears of what ends it early. The lease is counted from before the claim was
 * sent, on our own monotonic clock: whoever cannot renew stops before anybody else may begin.
 */
export function holdJob(
  deps: JobDeps,
  job: { readonly held: Held; readonly claimedMs: number; readonly limits: JobLimits; readonly signal: AbortSignal },
): Hold {
  const { held, limits } = job;
  const stopping = new AbortController();
  const over = new AbortController();
  let why: StopReason | null = null;
  let heldUntilMs = job.claimedMs + limits.leaseMs;
  const stop = (reason: StopReason): void => {
    why ??= reason;
    stopping.abort(new Error(`the job has to stop: ${why}`));
  };
  const onClosing = (): void => stop("stopping");
  if (job.signal.aborted) onClosing();
  job.signal.addEventListener("abort", onClosing, { once: true });

  const renew = async (): Promise<void> => {
    for (;;) {
      await deps.wake.wait(operationTopic(held.operationId), limits.renewMs, over.signal);
      const sentMs = deps.clock.monotonicMs();
      try {
        const renewed = await renewJobLease(deps.sql, held, limits.leaseMs);
        if (renewed === undefined) return stop("lease_lost");
        heldUntilMs = sentMs + limits.leaseMs;
        if (renewed.cancelRequested) stop("cancelled");
      } catch (error) {
        deps.log.warn({ operationId: held.operationId, reason: describeError(error) }, "job lease not renewed");
      }
    }
  };
  const watchTime = async (): Promise<void> => {
    for (;;) {
      const leftMs = heldUntilMs - limits.marginMs - deps.clock.monotonicMs();
      if (leftMs <= 0) return stop("out_of_touch");
      await deps.clock.sleep(leftMs, over.signal);
    }
  };
  const untilOver = async (loop: () => Promise<void>): Promise<void> => {
    await loop().catch((error: unknown) => {
      if (!isAborted(error, over.signal)) throw error;
    });
  };
  const loops = Promise.all([untilOver(renew), untilOver(watchTime)]);
  return {
    signal: stopping.signal,
    stopReason: () => why,
    close: async () => {
      job.signal.removeEventListener("abort", onClosing);
      over.abort(new Error("the job is over"));
      await loops;
    },
  };
}
