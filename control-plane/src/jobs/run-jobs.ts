import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { inTransaction } from "../db/transaction.ts";
import { JOBS_TOPIC, operationTopic } from "../db/wake-bus.ts";
import { advanceOperation } from "../operations/operations.ts";
import { wakeForJob } from "./enqueue-job.ts";
import { endGrant } from "./end-grant.ts";
import { JOB_LIMITS, type JobDeps, type JobKind, type JobLimits } from "./job-kind.ts";
import { decideAfterCrash } from "./model.ts";
import { runJob } from "./run-job.ts";
import { addSchedules, startDueSchedules, type Schedule } from "./schedules.ts";
import { claimJobs, hasDueJobs, lockLapsedJobs, prolongJobLeases, readUpkeep, type ClaimedJob } from "./store.ts";

/** How long a hint that was lost, or a retry whose time has come, goes unseen. */
const RECHECK_MS = 250;
const UPKEEP_MS = 1000;
const FAILED_RETRY_MS = 1000;
const LAPSED_BATCH = 100;
/** A gap in our own rounds longer than this means that we, or the database, were away: no lease ends because of it. */
const OUTAGE_MS = 5000;

export interface RunJobsOptions {
  readonly kinds: readonly JobKind[];
  readonly schedules: readonly Schedule[];
  readonly limits?: JobLimits;
  readonly signal: AbortSignal;
  onStatus(status: string): void;
}

/**
 * The control plane's own work, on every replica: takes jobs that are due and that nobody is at, starts what its schedule asks
 * for, and takes from the lost what they held. Resolves when the signal aborted and what ran has ended or been given back.
 */
export async function runJobs(deps: JobDeps, options: RunJobsOptions): Promise<void> {
  const { signal } = options;
  const running = new Set<Promise<void>>();
  const upkeep = makeUpkeep(deps, options);
  while (!signal.aborted) {
    // Before the look and not after it: a job that comes in between is not missed.
    const hint = deps.wake.wait(JOBS_TOPIC, RECHECK_MS, signal);
    hint.catch(() => undefined);
    try {
      await upkeep();
      const started = await takeJobs(deps, options, running);
      options.onStatus(`${running.size} jobs are running`);
      if (started === 0) await hint;
    } catch (error) {
      if (isAborted(error, signal)) break;
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, "job round failed");
      options.onStatus(`waiting: ${describeError(error)}`);
      await deps.clock.sleep(FAILED_RETRY_MS, signal).catch((abort: unknown) => {
        if (!isAborted(abort, signal)) throw abort;
      });
    }
  }
  await Promise.all(running);
}

/** Resolves with how many were started. */
async function takeJobs(deps: JobDeps, options: RunJobsOptions, running: Set<Promise<void>>): Promise<number> {
  const { kinds, signal, limits = JOB_LIMITS } = options;
  const limit = limits.atOnceMax - running.size;
  if (limit <= 0) return 0;
  const names = kinds.map(({ kind }) => kind);
  if (!(await hasDueJobs(deps.sql, names))) return 0;
  const claimedMs = deps.clock.monotonicMs();
  const claimed = await claim(deps, { kinds: names, limit, leaseMs: limits.leaseMs });
  for (const job of claimed) {
    const kind = kinds.find((known) => known.kind === job.kind);
    if (kind === undefined) throw new Error(`claimed a job of the kind ${job.kind}, which was not asked for`);
    const run = runJob(deps, { job, kind, claimedMs, limits, signal })
      // What could not be written down is left to its lease.
      .catch((error: unknown) => deps.log.error({ err: error, operationId: job.operationId }, "job left to its lease"))
      .finally(() => {
        running.delete(run);
        deps.wake.wakeHere(JOBS_TOPIC);
      });
    running.add(run);
  }
  return claimed.length;
}

async function claim(deps: JobDeps, wanted: Parameters<typeof claimJobs>[1]): Promise<ClaimedJob[]> {
  const claimed = await inTransaction(deps.sql, async (tx) => {
    const jobs = await claimJobs(tx, wanted);
    for (const job of jobs) await advanceOperation(tx, job.operationId, "running");
    return jobs;
  });
  for (const job of claimed) deps.wake.wake(operationTopic(job.operationId));
  return claimed;
}

/** Each second: what the lost held, and what its schedule asks for. */
function makeUpkeep(deps: JobDeps, { schedules, limits = JOB_LIMITS }: RunJobsOptions): () => Promise<void> {
  const scheduled = schedules.map(({ kind }) => kind.kind);
  let lastMs: number | null = null;
  return async () => {
    if (lastMs === null) await addSchedules(deps, schedules);
    else if (deps.clock.monotonicMs() - lastMs < UPKEEP_MS) return;
    const { hasLapsed, hasDueSchedules } = await readUpkeep(deps.sql, scheduled);
    // After the look, so that one which the database kept waiting counts as a gap too.
    const isBack = lastMs !== null && deps.clock.monotonicMs() - lastMs > OUTAGE_MS;
    if (isBack) await prolongJobLeases(deps.sql, limits.leaseMs);
    else if (hasLapsed) await endLapsedJobs(deps);
    if (hasDueSchedules) await startDueSchedules(deps, schedules);
    lastMs = deps.clock.monotonicMs();
  };
}

/** Takes jobs from workers that were not heard of for the length of their lease. */
export async function endLapsedJobs(deps: JobDeps): Promise<void> {
  const ended = await inTransaction(deps.sql, async (tx) => {
    const lapsed = await lockLapsedJobs(tx, LAPSED_BATCH);
    for (const job of lapsed) {
      const settlement = decideAfterCrash(job, deps.random);
      deps.log.warn({ operationId: job.operationId, ...settlement }, "the worker of a job was lost");
      await endGrant(tx, job, settlement);
    }
    return lapsed;
  });
  for (const job of ended) wakeForJob(deps, job.operationId);
}
