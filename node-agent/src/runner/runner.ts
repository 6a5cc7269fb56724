import { createHash } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, describeError, isAppError } from "@hostler/shared/errors.ts";
import type { PollRequest } from "@hostler/shared/node-protocol.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import type { JournalStore } from "../journal/journal-file.ts";
import { isLowerFence } from "../journal/model.ts";
import type { Log } from "../log.ts";
import { failureOf } from "../phases/failure-classes.ts";
import type { ControlPlane } from "../ports/control-plane.ts";
import type { NodeIdentity } from "../ports/node-keys.ts";
import type { SliceReference } from "../ports/slice-driver.ts";
import { planTask, sliceKey, type SliceInHand, type TaskHandlers, type TaskPlan } from "../tasks/handlers.ts";
import type { Conclusion, GrantedTask } from "../tasks/task.ts";
import { deliverResult } from "./delivery.ts";
import type { HighWaterMark } from "./high-water-mark.ts";
import { type Lease, leaseLost, makeLease } from "./lease.ts";
import type { Outbox, OutboxEntry } from "./outbox.ts";
import { type Progress, startProgress } from "./progress.ts";
import { makeTurns } from "./turns.ts";

/**
 * The life of a task on this host:
 *
 *   JWS ─► verified ─► above the high-water mark (on disk) ─► its turn ─► phases ─► outcome in the outbox ─► accepted
 *            │ no            │ no                               │
 *            ▼               ▼                                  └─ lease over, newer grant, agent stops: nothing is sent,
 *          a log line      a log line                              the journal waits for the next grant
 *
 * Nothing here decides what a task does: that is `tasks/`. Nothing here reads real time: that is the clock.
 */
export interface Runner {
  /** Takes over what an earlier process left behind. Once, before the first task. */
  start(): Promise<void>;
  /** Resolves when the task is taken or refused; its work goes on after that. Never rejects for a bad task. */
  take(grant: Grant): Promise<void>;
  readonly running: PollRequest["running"];
  /** What tasks have done and are doing to slices, as of one moment. */
  view(): RunnerView;
  /**
   * Keeps every task off the slice until the function that it gives back is called. Null when a task has the slice in hand, or
   * when tasks wait for their turn: they come first.
   */
  keepOff(slice: SliceReference): (() => void) | null;
  /** How many more tasks may come. */
  readonly credit: number;
  /** Resolves when `credit` next changes. */
  creditChanged(): Promise<void>;
  /** A poll's answer renewed the leases of all that ran when it was sent, except the stale ones. */
  renew(renewal: { readonly sentAtMs: number; readonly ttlMs: number; readonly taskIds: readonly string[] }): void;
  cancel(taskId: string): void;
  /** The control plane says that another grant owns it. */
  lose(taskId: string): void;
  /**
   * Stops every task where it stands. Slices run on. Resolves when all has stopped or after `timeoutMs`, with whether all had.
   */
  stop(timeoutMs: number): Promise<boolean>;
}

export interface RunnerView {
  /** The highest sequence of a task that was taken: every task up to it has ended, or is in hand. */
  readonly highWaterMark: number;
  readonly slices: readonly SliceInHand[];
}

export interface Grant {
  readonly jws: string;
  /** Monotonic time at which the request was sent that brought it. */
  readonly sentAtMs: number;
  readonly leaseTtlMs: number;
}

export interface RunnerDeps {
  readonly identity: NodeIdentity;
  readonly controlPlane: Pick<ControlPlane, "sendProgress" | "sendResult">;
  readonly journals: JournalStore;
  readonly handlers: TaskHandlers;
  readonly highWaterMark: HighWaterMark;
  readonly outbox: Outbox;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
}

/** Tasks in hand at once, terminals among them, and slices built or released at once. */
const TASKS_MAX = 32;
const SLICES_MAX = 4;
const FLUSH_MS = 3000;
const FIRST_RENEWAL_MS = 5000;

interface RunningTask {
  readonly claims: TaskClaims;
  readonly plan: TaskPlan;
  readonly digest: string;
  readonly lease: Lease;
  readonly progress: Progress;
  readonly cancel: AbortController;
  readonly stop: AbortController;
  readonly delivery: AbortController;
  /** Resolves when it is over, delivered or not. */
  ended: Promise<void>;
}

// oxlint-disable-next-line max-lines-per-function -- The one state machine of tasks: its steps share what is running, and read in the order in which a task passes them.
export function makeRunner(deps: RunnerDeps): Runner {
  const running = new Map<string, RunningTask>();
  const deliveries = new Map<string, Promise<void>>();
  const turns = makeTurns(SLICES_MAX);
  const shutdown = new AbortController();
  let intake: Promise<void> = Promise.resolve();
  /** Raised in the same step in which a task comes into `running`, unlike the mark on disk. */
  let takenSeq = 0;
  let creditChange = Promise.withResolvers<void>();
  const changeCredit = (): void => {
    creditChange.resolve();
    creditChange = Promise.withResolvers<void>();
  };

  const deliver = async (entry: OutboxEntry): Promise<void> => {
    const delivery = deliverResult(deps, entry, shutdown.signal).catch((error: unknown) => {
      deps.log.error({ taskId: entry.taskId, error: describeError(error) }, "outbox cannot be written");
    });
    deliveries.set(entry.taskId, delivery);
    await delivery;
    if (deliveries.get(entry.taskId) === delivery) deliveries.delete(entry.taskId);
  };

  const accept = async (grant: Grant): Promise<void> => {
    const claims = await deps.identity.verifyTask(grant.jws);
    await deps.highWaterMark.raise(claims);
    const earlier = running.get(claims.jti);
    earlier?.stop.abort(leaseLost(`A newer grant of the same task has come: fence ${claims.fence}.`));
    const task = openTask(deps, { grant, claims });
    if (task.plan.slice?.state === "releasing") cancelBuildOf(running, task.plan.key);
    running.set(claims.jti, task);
    takenSeq = claims.seq;
    deps.log.info(
      { taskId: claims.jti, kind: claims.kind, fence: claims.fence, attempt: claims.attempt },
      "task taken",
    );
    task.ended = work(task, earlier).finally(() => {
      task.delivery.abort(new Error("ended"));
      if (running.get(claims.jti) === task) running.delete(claims.jti);
      changeCredit();
    });
  };

  /** Never rejects: what goes wrong with one task is a log line and a lease that lapses. */
  const work = async (task: RunningTask, earlier: RunningTask | undefined): Promise<void> => {
    const { claims, plan } = task;
    try {
      await earlier?.ended;
      const entry = (await settledBefore(task)) ?? (await concluded(task));
      if (entry === null) return;
      await deliver(entry);
    } catch (error) {
      const fields = { taskId: claims.jti, key: plan.key, fence: claims.fence, error: describeError(error) };
      if (task.stop.signal.aborted) deps.log.warn(fields, "task stopped, the journal waits for the next grant");
      else deps.log.error(fields, "task left without a result, it will be granted again");
    }
  };

  /** An outcome that was worked out for an earlier grant and never accepted: signed again for this one. */
  const settledBefore = async (task: RunningTask): Promise<OutboxEntry | null> => {
    await deliveries.get(task.claims.jti);
    const settled = await deps.outbox.get(task.claims.jti);
    if (settled === null) return null;
    const entry = { ...settled, fence: task.claims.fence, tdig: task.digest, isDeliverable: true };
    await deps.outbox.put(entry);
    return entry;
  };

  /** Runs the task in its turn; null when it was stopped. */
  const concluded = async (task: RunningTask): Promise<OutboxEntry | null> => {
    const endTurn = task.plan.isHeavy ? await turns.take(task.plan.key, task.stop.signal) : () => {};
    try {
      const conclusion = await conclude(deps, task);
      if (conclusion === null) return null;
      const entry = {
        taskId: task.claims.jti,
        fence: task.claims.fence,
        tdig: task.digest,
        isDeliverable: true,
        events: await task.progress.takeUntold(FLUSH_MS),
        ...conclusion,
      };
      await deps.outbox.put(entry);
      if (entry.closes !== null) await (await deps.journals.open(entry.closes))?.remove();
      return entry;
    } finally {
      endTurn();
    }
  };

  return {
    start: async () => {
      await deps.journals.sweep();
      takenSeq = (await deps.highWaterMark.current()).seq;
      for (const entry of await deps.outbox.list()) {
        await removeClosed(deps.journals, entry);
        if (entry.isDeliverable) void deliver(entry);
      }
    },
    take: async (grant) => {
      const mine = intake.then(async () => await accept(grant));
      intake = mine.catch((error: unknown) => {
        const reason = isAppError(error) ? error.facts["reason"] : undefined;
        deps.log.warn({ reason, error: describeError(error) }, "task refused");
      });
      await intake;
    },
    get running() {
      return [...running.values()].map(({ claims, progress }) => ({
        taskId: claims.jti,
        fence: claims.fence,
        phase: progress.phase,
      }));
    },
    view: () => ({
      highWaterMark: takenSeq,
      slices: [...running.values()].flatMap(({ plan }) => (plan.slice === null ? [] : [plan.slice])),
    }),
    keepOff: (slice) => {
      const key = sliceKey(slice);
      return [...running.values()].some(({ plan }) => plan.key === key) ? null : turns.tryTake(key);
    },
    get credit() {
      return Math.max(0, TASKS_MAX - running.size);
    },
    creditChanged: async () => await creditChange.promise,
    renew: ({ sentAtMs, ttlMs, taskIds }) => {
      for (const taskId of taskIds) running.get(taskId)?.lease.extend(sentAtMs, ttlMs);
    },
    cancel: (taskId) => cancelTask(running.get(taskId)),
    lose: (taskId) => running.get(taskId)?.stop.abort(leaseLost("The control plane gave the task to another grant.")),
    stop: async (timeoutMs) => {
      const stopping = new AppError("service_unavailable", { detail: "The agent is stopping." });
      shutdown.abort(stopping);
      for (const task of running.values()) task.stop.abort(stopping);
      const all = Promise.allSettled([...running.values()].map(async (task) => await task.ended));
      const timer = new AbortController();
      const timeUp = deps.clock.sleep(timeoutMs, timer.signal).then(() => false);
      return await Promise.race([all.then(() => true), timeUp]).finally(() => timer.abort(stopping));
    },
  };
}

function openTask(deps: RunnerDeps, task: { readonly grant: Grant; readonly claims: TaskClaims }): RunningTask {
  const { grant, claims } = task;
  const lease = makeLease(deps.clock, { sentAtMs: grant.sentAtMs, ttlMs: grant.leaseTtlMs });
  const cancel = new AbortController();
  const stop = new AbortController();
  const delivery = new AbortController();
  const progress = startProgress(deps, {
    taskId: claims.jti,
    fence: claims.fence,
    lease,
    signal: delivery.signal,
    onCancel: () => cancelTask({ cancel }),
    onLost: (reason) => stop.abort(reason),
  });
  const digest = createHash("sha256").update(grant.jws).digest("hex");
  return {
    claims,
    plan: planTask(deps.handlers, claims),
    digest,
    lease,
    progress,
    cancel,
    stop,
    delivery,
    ended: Promise.resolve(),
  };
}

/** Runs the handler under its lease. Null when another grant has the slice. */
async function conclude(deps: RunnerDeps, task: RunningTask): Promise<Conclusion | null> {
  const { claims, cancel, stop, lease, progress } = task;
  // The poll that brought the task may have hung for most of the lease's time as we count it: renew before acting.
  if (lease.remainingMs() < lease.ttlMs / 2) await progress.flush(FIRST_RENEWAL_MS);
  const watch = new AbortController();
  void lease.over(watch.signal).then(
    () => stop.abort(leaseLost("The lease could not be renewed in time.")),
    () => "The task ended first.",
  );
  const assertHeld = (): void => {
    if (lease.remainingMs() <= 0) stop.abort(leaseLost("The lease could not be renewed in time."));
    stop.signal.throwIfAborted();
  };
  const granted: GrantedTask = { claims, cancel: cancel.signal, stop: stop.signal, assertHeld, emit: progress.emit };
  try {
    return await task.plan.run(granted);
  } catch (error) {
    if (stop.signal.aborted) throw error;
    if (isAppError(error, "lease_stale")) {
      deps.log.warn({ taskId: claims.jti, error: describeError(error) }, "task refused: a later grant has acted");
      return null;
    }
    deps.log.error({ taskId: claims.jti, error: describeError(error) }, "task failed outside its phases");
    const { code, class: failureClass, message } = failureOf("", error);
    return {
      closes: null,
      outcome: {
        outcome: "failed",
        facts: {},
        failure: { code, class: failureClass, phase: null, message, leftovers: [] },
      },
    };
  } finally {
    watch.abort(new Error("ended"));
  }
}

/** A release is the end of a build that still runs: it need not wait for it to finish. */
function cancelBuildOf(running: ReadonlyMap<string, RunningTask>, key: string): void {
  for (const task of running.values())
    if (task.plan.key === key && task.plan.slice?.state === "building") cancelTask(task);
}

function cancelTask(task: { readonly cancel: AbortController } | undefined): void {
  task?.cancel.abort(new AppError("task_cancelled", { detail: "The control plane does not want it any more." }));
}

/** The process ended between the outbox and the journal. A journal of a later grant is not this entry's to remove. */
async function removeClosed(journals: JournalStore, entry: OutboxEntry): Promise<void> {
  const journal = entry.closes === null ? null : await journals.open(entry.closes);
  if (journal === null || journal.state.closed === null || isLowerFence(entry.fence, journal.state.fence)) return;
  await journal.remove();
}
