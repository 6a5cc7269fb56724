import { backoffMs, type Backoff } from "@hostler/shared/backoff.ts";
import type { FailureClass } from "@hostler/shared/states.ts";

/**
 * How a piece of work can fail: as its worker says, for want of capacity, or by taking its worker along (`crash`: the lease
 * lapsed, and nobody said why).
 */
export type WorkFailure = FailureClass | "crash";

export interface FailedWork {
  readonly failureClass: WorkFailure;
  /** Tries that ended with an answer, the one that failed now among them. Crashes are not counted here: 1 after the first failure. */
  readonly attempt: number;
  /** Times that its worker was lost in this phase, the one now among them: 1 after the first crash. */
  readonly crashesInPhase: number;
  readonly random: () => number;
}

export type RetryDecision =
  | { readonly kind: "retry"; readonly delayMs: number }
  | { readonly kind: "place_again" }
  | { readonly kind: "fail" }
  | { readonly kind: "dead_letter"; readonly reason: string };

interface Policy {
  /** What happens while tries are left: the same again later, the same elsewhere, or nothing. */
  readonly again: "retry" | "place_again" | "never";
  readonly triesMax: number;
  readonly backoff: Backoff;
}

/** Every retry of the product is one of these lines. All have an end. */
export const RETRY_POLICIES = {
  transient: { again: "retry", triesMax: 10, backoff: { firstMs: 1000, maxMs: 60_000 } },
  capacity: { again: "place_again", triesMax: 10, backoff: { firstMs: 0, maxMs: 0 } },
  device: { again: "place_again", triesMax: 3, backoff: { firstMs: 0, maxMs: 0 } },
  host: { again: "place_again", triesMax: 3, backoff: { firstMs: 0, maxMs: 0 } },
  permanent: { again: "never", triesMax: 1, backoff: { firstMs: 0, maxMs: 0 } },
  /** What kills its worker three times in one phase would kill the fourth: a person has to look. */
  crash: { again: "retry", triesMax: 3, backoff: { firstMs: 1000, maxMs: 10_000 } },
} as const satisfies Record<WorkFailure, Policy>;

/** Decides what becomes of work that failed: the one place, for tasks of nodes and for jobs of our own. */
export function decideRetry(failed: FailedWork): RetryDecision {
  const policy: Policy = RETRY_POLICIES[failed.failureClass];
  const isCrash = failed.failureClass === "crash";
  const tries = isCrash ? failed.crashesInPhase : failed.attempt;
  if (tries >= policy.triesMax)
    return isCrash
      ? { kind: "dead_letter", reason: `Its worker was lost ${tries} times in the same phase.` }
      : { kind: "fail" };
  switch (policy.again) {
    case "retry":
      return { kind: "retry", delayMs: backoffMs(policy.backoff, tries, failed.random) };
    case "place_again":
      return { kind: "place_again" };
    case "never":
      return { kind: "fail" };
  }
}
