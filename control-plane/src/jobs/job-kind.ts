import type { Deps } from "../deps.ts";
import type { Tx } from "../db/sql.ts";

/** What the runner and the steps are made of. */
export interface JobDeps extends Pick<Deps, "sql" | "clock" | "log" | "wake"> {
  readonly random: () => number;
}

/** One kind of the control plane's own work, as data: whose it is and its steps in order. */
export interface JobKind {
  /** `storage.expire`. */
  readonly kind: string;
  readonly scope: `system:${string}`;
  readonly steps: readonly JobStep[];
}

/**
 * A step that ended is not run again, in whatever process the job goes on. One that was interrupted is: it has to be
 * idempotent. A name is kept for as long as jobs of the version before may be waiting.
 */
export interface JobStep {
  readonly name: string;
  /** Longer than that is a failure that may pass. */
  readonly timeoutMs?: number;
  run(context: JobContext): Promise<void>;
}

export interface JobContext extends Pick<JobDeps, "sql" | "clock" | "log" | "wake"> {
  readonly operationId: string;
  /** Rises with every grant of the job; what acts outside the database carries it there. */
  readonly fence: string;
  /** As they were given; the step parses them. */
  readonly params: unknown;
  /** Aborts when the job is cancelled, taken over, out of time, or the process stops. The step ends soon after. */
  readonly signal: AbortSignal;
  /** Writes that count only while the job is still this process's: `lease_stale` otherwise, and nothing is written. */
  commit<Result>(work: (tx: Tx) => Promise<Result>): Promise<Result>;
}

export interface JobLimits {
  readonly leaseMs: number;
  /** How often the lease is renewed, and how late a cancellation without a hint is seen. */
  readonly renewMs: number;
  /** Steps are stopped so long before the lease may end unrenewed. */
  readonly marginMs: number;
  /** How long a stopped step may take to end. After that it is left alone; the fence keeps its writes out. */
  readonly graceMs: number;
  /** Jobs that one replica runs at once. */
  readonly atOnceMax: number;
}

export const JOB_LIMITS: JobLimits = {
  leaseMs: 10_000,
  renewMs: 1500,
  marginMs: 2000,
  graceMs: 5000,
  atOnceMax: 4,
};
