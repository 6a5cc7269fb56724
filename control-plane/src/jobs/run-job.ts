import { backoffMs } from "@hostler/shared/backoff.ts";
import { AppError, describeError, isAppError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import { operationTopic } from "../db/wake-bus.ts";
import { noteOperationStep } from "../operations/operations.ts";
import { holdJob, type Hold } from "./hold-job.ts";
import type { JobDeps, JobKind, JobLimits, JobStep } from "./job-kind.ts";
import { decideSettlement, type JobEnding } from "./model.ts";
import { endGrant } from "./end-grant.ts";
import { wakeForJob } from "./enqueue-job.ts";
import { enterStep, lockHeldJob, type ClaimedJob } from "./store.ts";

const STEP_TIMEOUT_MS = 300_000;
/** About four minutes of a database that is away; after that the job is left to its lease. */
const SETTLE = { attemptsMax: 100, backoff: { firstMs: 200, maxMs: 5000 } } as const;

export interface JobRun {
  readonly job: ClaimedJob;
  readonly kind: JobKind;
  /** Our clock before the claim was sent. */
  readonly claimedMs: number;
  readonly limits: JobLimits;
  readonly signal: AbortSignal;
}

/**
 * Runs what is left of one job that this process was granted, and says how the grant ended. Never rejects for what a step did.
 */
export async function runJob(deps: JobDeps, run: JobRun): Promise<void> {
  const { job, limits, signal, claimedMs } = run;
  const hold = holdJob(deps, { held: job, claimedMs, limits, signal });
  try {
    const ending = await walkSteps(deps, run, hold);
    const settlement = decideSettlement(job, ending, deps.random);
    if (settlement === null) {
      deps.log.warn({ operationId: job.operationId, kind: job.kind, fence: job.fence }, "job was taken over");
      return;
    }
    if (settlement.state !== "succeeded")
      deps.log.warn({ operationId: job.operationId, kind: job.kind, ...settlement }, "job did not succeed");
    await withDatabase(deps, run.signal, async () => {
      await inTransaction(deps.sql, async (tx) => await endGrant(tx, job, settlement));
    });
    wakeForJob(deps, job.operationId);
  } finally {
    await hold.close();
  }
}

async function walkSteps(deps: JobDeps, run: JobRun, hold: Hold): Promise<JobEnding> {
  const { job, kind } = run;
  const names = kind.steps.map((step) => step.name);
  const stepsDone = names.filter((name) => job.stepsDone.includes(name));
  let current: string | null = null;
  try {
    for (const step of kind.steps.filter(({ name }) => !stepsDone.includes(name))) {
      current = step.name;
      await begin(deps, job, { step: step.name, stepsDone });
      const stopped = await runStep(deps, run, { step, hold });
      if (stopped) return { kind: "stopped", reason: hold.stopReason() ?? "stopping", step: current };
      stepsDone.push(step.name);
    }
    return { kind: "succeeded" };
  } catch (error) {
    const reason = hold.stopReason();
    if (isAppError(error, "lease_stale")) return { kind: "stopped", reason: "lease_lost", step: current };
    return reason === null ? { kind: "failed", error, step: current } : { kind: "stopped", reason, step: current };
  }
}

async function begin(
  deps: JobDeps,
  job: ClaimedJob,
  at: { readonly step: string; readonly stepsDone: readonly string[] },
): Promise<void> {
  await inTransaction(deps.sql, async (tx) => {
    if (!(await enterStep(tx, job, at))) throw stale();
    await noteOperationStep(tx, job.operationId, { phase: at.step, phasesDone: at.stepsDone.length });
  });
  deps.wake.wake(operationTopic(job.operationId));
}

/** True when the job was stopped before the step ended, or while it did not end. */
async function runStep(
  deps: JobDeps,
  run: JobRun,
  { step, hold }: { readonly step: JobStep; readonly hold: Hold },
): Promise<boolean> {
  if (hold.signal.aborted) return true;
  const { clock } = deps;
  const over = new AbortController();
  const late = new AbortController();
  const timeoutMs = step.timeoutMs ?? STEP_TIMEOUT_MS;
  const timeout = new AppError("service_unavailable", { detail: `The step took longer than ${timeoutMs} ms.` });
  const signal = AbortSignal.any([hold.signal, late.signal]);
  const running = doStep(deps, run.job, { step, signal });
  // A step that does not hear its signal ends when it wants to, with nobody listening.
  running.catch(() => undefined);
  const stuck = whenAborted(signal).then(async () => await clock.sleep(run.limits.graceMs, over.signal));
  stuck.catch(() => undefined);
  clock.sleep(timeoutMs, over.signal).then(
    () => late.abort(timeout),
    () => undefined,
  );
  try {
    const isStuck = await Promise.race([running.then(() => false), stuck.then(() => true)]);
    if (!isStuck) return false;
    const { operationId } = run.job;
    deps.log.error({ operationId, step: step.name }, "a stopped step does not end; its writes are refused from now on");
    if (hold.stopReason() === null) throw timeout;
    return true;
  } catch (error) {
    throw late.signal.aborted ? timeout : error;
  } finally {
    over.abort(new Error("the step is over"));
  }
}

async function doStep(
  { sql, clock, log, wake }: JobDeps,
  job: ClaimedJob,
  { step, signal }: { readonly step: JobStep; readonly signal: AbortSignal },
): Promise<void> {
  const { operationId, fence, params } = job;
  const commit = async <Result>(work: (tx: Tx) => Promise<Result>): Promise<Result> =>
    await inTransaction(sql, async (tx) => {
      if (!(await lockHeldJob(tx, job))) throw stale();
      return await work(tx);
    });
  await step.run({ sql, clock, log, wake, operationId, fence, params, signal, commit });
}

async function whenAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** What ended has to be written down, also when the database is away just now. Bounded: after that the lease lapses. */
async function withDatabase(deps: JobDeps, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await work();
    } catch (error) {
      if (!isDatabaseAway(error) || attempt === SETTLE.attemptsMax) throw error;
      deps.log.warn({ reason: describeError(error) }, "the end of a job could not be written yet");
      await deps.clock.sleep(backoffMs(SETTLE.backoff, attempt, deps.random), signal);
    }
  }
}

function stale(): AppError {
  return new AppError("lease_stale", { detail: "Another process has the job by now." });
}
