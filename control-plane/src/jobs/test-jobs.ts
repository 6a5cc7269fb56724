import { randomBytes } from "node:crypto";
import type { Operation } from "@hostler/shared/api/common.ts";
import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import type { OperationState } from "@hostler/shared/states.ts";
import { pino } from "pino";
import { waitFor } from "../../../test/support/wait-for.ts";
import { createTestDatabase } from "../db/test-database.ts";
import { openPool } from "../db/pool.ts";
import type { Sql } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import { openWakeBus, type RunningWakeBus, type WakeBus } from "../db/wake-bus.ts";
import { getOperation } from "../operations/operations.ts";
import { enqueueJob, wakeForJob, type Enqueued, type JobWish } from "./enqueue-job.ts";
import { JOB_LIMITS, type JobDeps, type JobKind, type JobLimits, type JobStep } from "./job-kind.ts";
import { endLapsedJobs, runJobs } from "./run-jobs.ts";
import type { Schedule } from "./schedules.ts";
import { claimJobs, readJobs, type JobRow } from "./store.ts";

/** Replicas that run jobs, each with a pool and a wake bus of its own, on one database. */
export interface JobPlane {
  readonly sql: Sql;
  readonly deps: JobDeps;
  /** One more replica; resolves with what stops it as a stopping process does. */
  startReplica(kinds: readonly JobKind[], options?: ReplicaOptions): Promise<() => Promise<void>>;
  /** Between tests, so that their connections do not add up. */
  stopReplicas(): Promise<void>;
  operation(id: string): Promise<Operation>;
  /** The operation, once it is in that state. */
  untilState(id: string, state: OperationState): Promise<Operation>;
  job(id: string): Promise<JobRow>;
  /** Its holder has not been heard of for the length of a lease. */
  expireLease(id: string): Promise<void>;
  /** What a worker that is lost in the step at hand leaves behind. */
  loseWorker(kind: JobKind, operationId: string): Promise<void>;
  close(): Promise<void>;
}

export interface ReplicaOptions {
  readonly limits?: Partial<JobLimits>;
  readonly schedules?: readonly Schedule[];
  /** Takes what there is at its start and then neither renews nor hears anything, like a process that was stopped (SIGSTOP). */
  readonly isFrozen?: boolean;
  readonly clock?: Clock;
}

export async function openJobPlane(): Promise<JobPlane> {
  const database = await createTestDatabase();
  const { sql } = database;
  const log = pino({ level: "silent" });
  const openBus = (): RunningWakeBus =>
    openWakeBus({ url: database.url, replicaId: randomBytes(4).toString("hex"), clock: systemClock, log });
  const wake = openBus();
  // The shortest waits that the policy has.
  const random = (): number => 0;
  const deps = { sql, clock: systemClock, log, wake, random };
  const stops = new Set<() => Promise<void>>();
  const stopReplicas = async (): Promise<void> => {
    for (const stop of stops) await stop();
  };
  return {
    sql,
    deps,
    startReplica: async (kinds, options = {}) => {
      const closing = new AbortController();
      const pool = openPool({ url: database.url, applicationName: "hostler test replica", connectionsMax: 6 });
      const bus = openBus();
      const own =
        options.isFrozen === true
          ? { clock: FROZEN_CLOCK, wake: DEAF_BUS }
          : { clock: options.clock ?? systemClock, wake: bus };
      const running = runJobs(
        { ...deps, ...own, sql: pool },
        {
          kinds,
          schedules: options.schedules ?? [],
          limits: { ...JOB_LIMITS, ...options.limits },
          signal: closing.signal,
          onStatus: () => undefined,
        },
      );
      const stop = async (): Promise<void> => {
        stops.delete(stop);
        closing.abort(new Error("the replica stops"));
        await running;
        await bus.close();
        await pool.end({ timeout: 1 });
      };
      stops.add(stop);
      return stop;
    },
    ...makeLooks(deps),
    stopReplicas,
    close: async () => {
      await stopReplicas();
      await wake.close();
      await database.close();
    },
  };
}

function makeLooks(deps: JobDeps): Pick<JobPlane, "operation" | "untilState" | "job" | "expireLease" | "loseWorker"> {
  const { sql } = deps;
  const expireLease = async (id: string): Promise<void> => {
    await sql`update jobs set lease_until = now() - interval '1 second' where operation_id = ${id} and state = 'running'`;
  };
  return {
    expireLease,
    operation: async (id) => await getOperation(sql, id),
    untilState: async (id, state) =>
      await waitFor(`${id} is ${state}`, async () => {
        const operation = await getOperation(sql, id);
        return operation.state === state && operation;
      }),
    job: async (id) => {
      const job = (await readJobs(sql, { state: undefined, after: null, limit: 200 })).find(
        (row) => row.operationId === id,
      );
      if (job === undefined) throw new Error(`there is no job ${id}`);
      return job;
    },
    loseWorker: async (kind, operationId) => {
      await sql`update jobs set run_at = now() where operation_id = ${operationId}`;
      const wanted = { kinds: [kind.kind], limit: 1, leaseMs: 60_000 };
      const claimed = await inTransaction(sql, async (tx) => await claimJobs(tx, wanted));
      if (claimed.length !== 1) throw new Error(`${operationId} could not be claimed`);
      await expireLease(operationId);
      await endLapsedJobs(deps);
    },
  };
}

/** Enqueues in a transaction of its own and wakes the runners. */
export async function startJob(
  deps: Pick<JobDeps, "sql" | "clock" | "wake">,
  kind: JobKind,
  wish: JobWish = {},
): Promise<Enqueued> {
  const enqueued = await inTransaction(deps.sql, async (tx) => await enqueueJob(tx, deps, kind, wish));
  wakeForJob(deps, enqueued.operationId);
  return enqueued;
}

let kinds = 0;

/** A kind of its own for each test, so that no replica takes another test's work. */
export function makeKind(...steps: readonly JobStep[]): JobKind {
  kinds += 1;
  return { kind: `test.kind_${kinds}`, scope: "system:test", steps };
}

export const step = (name: string, run: JobStep["run"]): JobStep => ({ name, run });

export function makeGate(): { readonly opened: Promise<void>; open(): void } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { opened, open };
}

export async function untilAborted(signal: AbortSignal): Promise<never> {
  signal.throwIfAborted();
  return await new Promise<never>((_resolve, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

const FROZEN_CLOCK: Clock = { ...systemClock, sleep: async (_ms, signal) => await untilAborted(signal) };
const DEAF_BUS: WakeBus = {
  wake: () => undefined,
  wakeHere: () => undefined,
  listen: () => undefined,
  hasWaiters: false,
  wait: async (_topic, _timeoutMs, signal) => await untilAborted(signal),
};
