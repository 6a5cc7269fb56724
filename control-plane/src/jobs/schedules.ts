import { inTransaction } from "../db/transaction.ts";
import { enqueueJob, wakeForJob } from "./enqueue-job.ts";
import type { JobDeps, JobKind } from "./job-kind.ts";
import { registerSchedules, takeDueSchedules } from "./store.ts";

/** Work that comes back. Its row in the database says when next; the first time is at once. */
export interface Schedule {
  readonly kind: JobKind;
  readonly everyMs: number;
  /** Up to so much later, so that not everything begins in the same second. */
  readonly jitterMs: number;
}

/**
 * Starts what is due, once over all replicas: the row moves and the job is written in one transaction. A job of the time before
 * that is still under way is left alone, and none is added.
 */
export async function startDueSchedules(deps: JobDeps, schedules: readonly Schedule[]): Promise<void> {
  if (schedules.length === 0) return;
  const wanted = schedules.map(({ kind, everyMs }) => ({ kind: kind.kind, everyMs }));
  const started = await inTransaction(deps.sql, async (tx) => {
    const due = await takeDueSchedules(tx, wanted);
    const jobs = [];
    for (const { kind, jitterMs } of schedules.filter((schedule) => due.includes(schedule.kind.kind))) {
      const delayMs = Math.round(jitterMs * deps.random());
      jobs.push(await enqueueJob(tx, deps, kind, { dedupeKey: `schedule:${kind.kind}`, delayMs }));
    }
    return jobs;
  });
  for (const { operationId } of started) wakeForJob(deps, operationId);
}

/** Gives schedules that this version brings their row; the others keep theirs. May run on every replica at once. */
export async function addSchedules(deps: Pick<JobDeps, "sql">, schedules: readonly Schedule[]): Promise<void> {
  await registerSchedules(
    deps.sql,
    schedules.map(({ kind }) => kind.kind),
  );
}
