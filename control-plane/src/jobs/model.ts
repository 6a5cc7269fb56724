import { AppError, describeError, ERRORS } from "@hostler/shared/errors.ts";
import { decideRetry } from "../operations/retry-policy.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { StopReason } from "./hold-job.ts";
import type { LapsedJob, Settlement } from "./store.ts";

/**
 * States of a job: ready → running → succeeded, or failed, dead, cancelled; running → ready when it is to be tried again. Its
 * operation shows pending, running, retrying, succeeded, failed (dead too), cancelled.
 */
export type JobEnding =
  | { readonly kind: "succeeded" }
  | { readonly kind: "stopped"; readonly reason: StopReason; readonly step: string | null }
  | { readonly kind: "failed"; readonly error: unknown; readonly step: string | null };

/** How a grant ends: what becomes of the job, and what its operation says of it. */
export interface JobSettlement extends Settlement {
  readonly code: string;
  readonly step: string | null;
}

const REASON_LENGTH_MAX = 1000;

interface Counted {
  readonly attempts: number;
  readonly crashes: number;
}

/** Null when the job is another process's by now, and nothing is to be written. */
export function decideSettlement(job: Counted, ending: JobEnding, random: () => number): JobSettlement | null {
  const { attempts, crashes } = job;
  const quiet = { delayMs: 0, reason: null, attempts, crashes, code: "internal" };
  if (ending.kind === "succeeded") return { ...quiet, state: "succeeded", step: null };
  const { step } = ending;
  if (ending.kind === "failed") return afterFailure(job, { error: ending.error, step }, random);
  switch (ending.reason) {
    case "lease_lost":
      return null;
    case "cancelled":
      return { ...quiet, state: "cancelled", step };
    case "stopping":
      return { ...quiet, state: "ready", step, reason: "its replica stopped", code: "service_unavailable" };
    case "out_of_touch": {
      const error = new AppError("service_unavailable", { detail: "The lease could not be renewed in time." });
      return afterFailure(job, { error, step }, random);
    }
  }
}

/** What becomes of a job whose worker was lost. */
export function decideAfterCrash(job: LapsedJob, random: () => number): JobSettlement {
  const crashes = job.crashes + 1;
  const decision = decideRetry({ failureClass: "crash", attempt: job.attempts, crashesInPhase: crashes, random });
  const common = { attempts: job.attempts, crashes, step: job.step };
  if (decision.kind === "retry") {
    const { delayMs } = decision;
    return { ...common, state: "ready", delayMs, reason: "its worker was lost", code: "lease_lost" };
  }
  const reason = decision.kind === "dead_letter" ? decision.reason : "its worker was lost";
  return { ...common, state: "dead", delayMs: 0, reason, code: "dead_letter" };
}

function afterFailure(
  job: Counted,
  { error, step }: { readonly error: unknown; readonly step: string | null },
  random: () => number,
): JobSettlement {
  const failureClass = mayPass(error) ? "transient" : "permanent";
  const attempt = job.attempts + 1;
  const decision = decideRetry({ failureClass, attempt, crashesInPhase: job.crashes, random });
  const reason = describeError(error).slice(0, REASON_LENGTH_MAX);
  const code = error instanceof AppError ? error.code : isDatabaseAway(error) ? "service_unavailable" : "internal";
  const common = { reason, code, step, attempts: attempt, crashes: job.crashes };
  return decision.kind === "retry"
    ? { ...common, state: "ready", delayMs: decision.delayMs }
    : { ...common, state: "failed", delayMs: 0 };
}

/** SQLSTATE: serialization failure, deadlock, lock not available, statement cancelled by its timeout. */
const PASSING_STATES: ReadonlySet<string> = new Set(["40001", "40P01", "55P03", "57014"]);

/** Whether the same step may succeed later as it is. Anything unexpected may not: it is a bug, and repeating it hides it. */
function mayPass(error: unknown): boolean {
  if (error instanceof AppError) return ERRORS[error.code].retriable;
  if (isDatabaseAway(error)) return true;
  return error instanceof Error && "code" in error && typeof error.code === "string" && PASSING_STATES.has(error.code);
}
