import type { JobState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export interface NewJob {
  readonly operationId: string;
  readonly kind: string;
  readonly params: unknown;
  readonly dedupeKey: string | null;
  readonly priority: number;
  readonly delayMs: number;
  readonly stepsDone: readonly string[];
}

/** False when a job with the same dedupe key is waiting or running; nothing is written then. */
export async function insertJob(tx: Tx, job: NewJob): Promise<boolean> {
  const rows = await tx`
    insert into jobs (operation_id, kind, params, dedupe_key, priority, state, run_at, steps_done)
    values (${job.operationId}, ${job.kind}, ${tx.json(job.params as never)}, ${job.dedupeKey}, ${job.priority}, 'ready',
      now() + ${job.delayMs} * interval '1 millisecond', ${[...job.stepsDone]})
    on conflict (dedupe_key) where state in ('ready', 'running') do nothing
    returning operation_id
  `;
  return rows.length > 0;
}

/** The job with that key that is not over. */
export async function findLiveJob(db: Queryable, dedupeKey: string): Promise<string | undefined> {
  const [row] = await db<{ operationId: string }[]>`
    select operation_id as "operationId" from jobs
    where dedupe_key = ${dedupeKey} and state in ('ready', 'running')
  `;
  return row?.operationId;
}

/** One grant of a job. The fence alone names it: no two grants share one. */
export interface Held {
  readonly operationId: string;
  readonly fence: string;
}

export interface ClaimedJob extends Held {
  readonly kind: string;
  readonly params: unknown;
  readonly attempts: number;
  readonly crashes: number;
  readonly stepsDone: readonly string[];
}

/** The look that every replica has several times a second; a transaction follows only when there is something to take. */
export async function hasDueJobs(db: Queryable, kinds: readonly string[]): Promise<boolean> {
  const rows = await db`
    select from jobs
    where state = 'ready' and run_at <= now() and kind = any(${[...kinds]})
    limit 1
  `;
  return rows.length > 0;
}

/** Takes due jobs of the kinds that this version knows, so that an older replica leaves a newer one's work alone. */
export async function claimJobs(
  tx: Tx,
  claim: { readonly kinds: readonly string[]; readonly limit: number; readonly leaseMs: number },
): Promise<ClaimedJob[]> {
  return await tx<ClaimedJob[]>`
    update jobs j
    set state = 'running', fence = epoch.base + nextval('fence_seq'), lease_until = now() + ${claim.leaseMs} * interval '1 millisecond'
    from (
      select operation_id
      from jobs
      where state = 'ready' and run_at <= now() and kind = any(${[...claim.kinds]})
      order by priority desc, run_at, operation_id
      limit ${claim.limit}
      for update skip locked
    ) as due
    cross join (select fence_base() as base) as epoch
    where j.operation_id = due.operation_id
    returning j.operation_id as "operationId", j.fence::text, j.kind, j.params, j.attempts, j.crashes, j.steps_done as "stepsDone"
  `;
}

/**
 * Undefined when the job is somebody else's by now. A lease that lapsed and that nobody took is still its holder's: an outage
 * of the database ends no lease by itself, and whoever takes the job raises the fence.
 */
export async function renewJobLease(
  db: Queryable,
  held: Held,
  leaseMs: number,
): Promise<{ readonly cancelRequested: boolean } | undefined> {
  const [row] = await db<{ cancelRequested: boolean }[]>`
    update jobs set lease_until = now() + ${leaseMs} * interval '1 millisecond'
    where operation_id = ${held.operationId} and fence = ${held.fence} and state = 'running'
    returning cancel_requested as "cancelRequested"
  `;
  return row;
}

/** Whether the job is still held, and stays so until the transaction ends. */
export async function lockHeldJob(tx: Tx, held: Held): Promise<boolean> {
  const rows = await tx`
    select from jobs
    where operation_id = ${held.operationId} and fence = ${held.fence} and state = 'running'
    for share
  `;
  return rows.length > 0;
}

/** Begins a step, and keeps what ended before. Crashes are counted anew once a step has ended. False when the job is not ours. */
export async function enterStep(
  tx: Tx,
  held: Held,
  at: { readonly step: string; readonly stepsDone: readonly string[] },
): Promise<boolean> {
  const stepsDone = [...at.stepsDone];
  const rows = await tx`
    update jobs
    set step = ${at.step}, steps_done = ${stepsDone}, crashes = case when steps_done = ${stepsDone} then crashes else 0 end
    where operation_id = ${held.operationId} and fence = ${held.fence} and state = 'running'
    returning operation_id
  `;
  return rows.length > 0;
}

export interface Settlement {
  readonly state: Exclude<JobState, "running">;
  readonly delayMs: number;
  readonly reason: string | null;
  readonly attempts: number;
  readonly crashes: number;
}

/**
 * Ends a grant. A job that would wait for another one although it is to be cancelled is cancelled. Answers with the state it
 * has now; undefined when the job is not ours.
 */
export async function settleJob(tx: Tx, held: Held, settlement: Settlement): Promise<JobState | undefined> {
  const [row] = await tx<{ state: JobState }[]>`
    update jobs
    set state = settled.state, ended_at = case when settled.state = 'ready' then null else now() end, lease_until = null,
      run_at = now() + ${settlement.delayMs} * interval '1 millisecond', reason = ${settlement.reason},
      attempts = ${settlement.attempts}, crashes = ${settlement.crashes}
    from (
      select operation_id, case when ${settlement.state} = 'ready' and cancel_requested then 'cancelled' else ${settlement.state} end as state
      from jobs
      where operation_id = ${held.operationId} and fence = ${held.fence} and state = 'running'
      for update
    ) as settled
    where jobs.operation_id = settled.operation_id
    returning jobs.state
  `;
  return row?.state;
}

export interface LapsedJob extends Held {
  readonly attempts: number;
  readonly crashes: number;
  readonly step: string | null;
}

/** Jobs whose holder was not heard of for the length of a lease, by the database's clock. */
export async function lockLapsedJobs(tx: Tx, limit: number): Promise<LapsedJob[]> {
  return await tx<LapsedJob[]>`
    select operation_id as "operationId", fence::text, attempts, crashes, step
    from jobs
    where state = 'running' and lease_until < now()
    order by lease_until
    limit ${limit}
    for update skip locked
  `;
}

export async function prolongJobLeases(db: Queryable, leaseMs: number): Promise<void> {
  await db`
    update jobs set lease_until = greatest(lease_until, now() + ${leaseMs} * interval '1 millisecond')
    where state = 'running'
  `;
}

/** A waiting job is cancelled now, the holder of a running one is asked to stop. Undefined when it is over. */
export async function requestJobCancel(tx: Tx, operationId: string): Promise<JobState | undefined> {
  const [row] = await tx<{ state: JobState }[]>`
    update jobs
    set cancel_requested = true, state = case when state = 'ready' then 'cancelled' else state end,
      ended_at = case when state = 'ready' then now() end
    where operation_id = ${operationId} and state in ('ready', 'running')
    returning state
  `;
  return row?.state;
}

export interface EndedJob extends Pick<NewJob, "kind" | "params" | "dedupeKey" | "priority" | "stepsDone"> {
  readonly state: JobState;
  readonly redrivenAs: string | null;
}

export async function lockJob(tx: Tx, operationId: string): Promise<EndedJob | undefined> {
  const [row] = await tx<EndedJob[]>`
    select kind, params, dedupe_key as "dedupeKey", priority, steps_done as "stepsDone", state, redriven_as as "redrivenAs"
    from jobs
    where operation_id = ${operationId}
    for update
  `;
  return row;
}

export async function markRedriven(tx: Tx, operationId: string, redrivenAs: string): Promise<void> {
  await tx`update jobs set redriven_as = ${redrivenAs} where operation_id = ${operationId} and redriven_as is null`;
}

export interface JobRow {
  readonly operationId: string;
  readonly kind: string;
  readonly state: JobState;
  readonly priority: number;
  readonly attempts: number;
  readonly crashes: number;
  readonly step: string | null;
  readonly reason: string | null;
  readonly runAt: Date;
  readonly endedAt: Date | null;
  readonly redrivenAs: string | null;
}

/** Newest first, below the id `after`. */
export async function readJobs(
  db: Queryable,
  page: { readonly state: JobState | undefined; readonly after: string | null; readonly limit: number },
): Promise<JobRow[]> {
  const { state = null } = page;
  return await db<JobRow[]>`
    select operation_id as "operationId", kind, state, priority, attempts, crashes, step, reason, run_at as "runAt",
      ended_at as "endedAt", redriven_as as "redrivenAs"
    from jobs
    where (${state}::text is null or state = ${state})
      and (${page.after}::text is null or operation_id < ${page.after})
    order by operation_id desc
    limit ${page.limit}
  `;
}

/** How many jobs are in each state, and how long the oldest one that could run has been waiting. */
export async function readJobGauges(
  db: Queryable,
): Promise<{ readonly counts: ReadonlyMap<string, number>; readonly oldestDueSeconds: number }> {
  const rows = await db<{ state: string; count: number; oldestDueSeconds: number }[]>`
    select state, count(*)::int as count,
      coalesce(max(extract(epoch from now() - run_at)) filter (where state = 'ready' and run_at <= now()), 0)::float8 as "oldestDueSeconds"
    from jobs
    group by state
  `;
  return {
    counts: new Map(rows.map((row) => [row.state, row.count])),
    oldestDueSeconds: Math.max(0, ...rows.map((row) => row.oldestDueSeconds)),
  };
}

/** The look of each second: whether there are workers that were lost, and schedules whose time has come. */
export async function readUpkeep(
  db: Queryable,
  scheduled: readonly string[],
): Promise<{ readonly hasLapsed: boolean; readonly hasDueSchedules: boolean }> {
  const [row] = await db<{ hasLapsed: boolean; hasDueSchedules: boolean }[]>`
    select exists (select from jobs where state = 'running' and lease_until < now()) as "hasLapsed",
      exists (select from job_schedules where next_at <= now() and kind = any(${[...scheduled]})) as "hasDueSchedules"
  `;
  return row ?? { hasLapsed: false, hasDueSchedules: false };
}

export async function registerSchedules(db: Queryable, kinds: readonly string[]): Promise<void> {
  await db`insert into job_schedules (kind) select unnest(${[...kinds]}::text[]) on conflict do nothing`;
}

/**
 * The schedules whose time has come, each moved to its next time after now: what was missed is made up for once, and the beat
 * stays. Two replicas that ask at once share the answer, because the second waits for the row and finds it moved.
 */
export async function takeDueSchedules(
  tx: Tx,
  schedules: readonly { readonly kind: string; readonly everyMs: number }[],
): Promise<string[]> {
  const rows = await tx<{ kind: string }[]>`
    update job_schedules s
    set next_at = s.next_at + every.ms * interval '1 millisecond'
      * (floor(extract(epoch from now() - s.next_at) * 1000 / every.ms) + 1)::float8
    from unnest(${schedules.map((schedule) => schedule.kind)}::text[], ${schedules.map((schedule) => schedule.everyMs)}::float8[])
      as every (kind, ms)
    where s.kind = every.kind and s.next_at <= now()
    returning s.kind
  `;
  return rows.map((row) => row.kind);
}

/** Operations of jobs that ended long ago, for whoever forgets them; dead letters stay three times as long. */
export async function findForgettableJobs(db: Queryable, days: number, limit: number): Promise<string[]> {
  const rows = await db<{ operationId: string }[]>`
    select operation_id as "operationId"
    from jobs
    where ended_at < now() - ${days} * interval '1 day'
      and (state <> 'dead' or ended_at < now() - 3 * ${days} * interval '1 day')
    order by ended_at
    limit ${limit}
  `;
  return rows.map((row) => row.operationId);
}
