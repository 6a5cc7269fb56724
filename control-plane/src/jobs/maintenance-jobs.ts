import { maintainPartitions, type KeepDays } from "../db/partitions.ts";
import { expireIdempotencyKeys } from "../http/idempotency.ts";
import { closeIncidentsOfGoneNodes } from "../incidents/sync-incidents.ts";
import { forgetOperations } from "../operations/operations.ts";
import type { JobContext, JobKind } from "./job-kind.ts";
import type { Schedule } from "./schedules.ts";
import { findForgettableJobs } from "./store.ts";

const HOUR_MS = 3_600_000;
const FINISHED_DAYS_KEPT = 14;
/** Each forgotten operation is looked for in the tables that could name it. */
const FORGET_BATCH = 100;

/** Days of the tables that are cut into days: made ahead, dropped past their time. */
const partitionsOf = (keepDays: KeepDays): JobKind => ({
  kind: "storage.partitions",
  scope: "system:storage",
  steps: [
    {
      name: "make_and_drop",
      run: async ({ sql, clock }) => void (await maintainPartitions(sql, clock.now(), keepDays)),
    },
  ],
});

/** Rows that nobody will ask for again, and incidents that nobody else will close. */
const expiry: JobKind = {
  kind: "storage.expire",
  scope: "system:storage",
  steps: [
    { name: "idempotency_keys", run: async ({ sql, signal }) => await expireIdempotencyKeys(sql, signal) },
    { name: "finished_jobs", run: forgetFinishedJobs },
    { name: "incidents_of_gone_nodes", run: closeIncidentsOfGoneNodes },
  ],
};

async function forgetFinishedJobs({ sql, signal }: JobContext): Promise<void> {
  for (;;) {
    signal.throwIfAborted();
    const ids = await findForgettableJobs(sql, FINISHED_DAYS_KEPT, FORGET_BATCH);
    await forgetOperations(sql, ids);
    if (ids.length < FORGET_BATCH) return;
  }
}

/** Every kind of job that this version can run, and what of it is due when. */
export function maintenanceJobs(keepDays: KeepDays): {
  readonly kinds: readonly JobKind[];
  readonly schedules: readonly Schedule[];
} {
  const partitions = partitionsOf(keepDays);
  return {
    kinds: [partitions, expiry],
    schedules: [
      { kind: partitions, everyMs: HOUR_MS, jitterMs: 60_000 },
      { kind: expiry, everyMs: HOUR_MS, jitterMs: 60_000 },
    ],
  };
}
