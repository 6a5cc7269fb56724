import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { LEASE_TTL_MS } from "@hostler/shared/node-protocol.ts";
import { applyTaskAbandoned, applyTaskRetry } from "../allocations/apply-task-result.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { nodeTopic, operationTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { ATTEMPTS_MAX } from "./complete-task.ts";
import { lockExpiredTasks, lockLapsedLeases, prolongAllLeases, settleTask, type TaskRow } from "./store.ts";

const INTERVAL_MS = 1000;
const BATCH = 100;
/** A gap in our own rounds longer than this share of a lease means that we, or the database, were away: no lease ends because of it. */
const OUTAGE_SHARE = 1 / 6;

/**
 * Ends what nobody ends. Each second: leases that lapsed go back to `ready` (their next grant has a higher fence) or fail after
 * the last attempt, and tasks that no node picked up in time fail. After an outage of ours every lease is prolonged first.
 */
export async function runTaskLoop(
  deps: Pick<Deps, "sql" | "clock" | "wake" | "log" | "leaseTtlMs">,
  options: { readonly signal: AbortSignal; onStatus(status: string): void },
): Promise<void> {
  const { leaseTtlMs = LEASE_TTL_MS } = deps;
  const outageMs = Math.max(2 * INTERVAL_MS, leaseTtlMs * OUTAGE_SHARE);
  let lastRoundMs = deps.clock.monotonicMs();
  while (!options.signal.aborted) {
    try {
      await deps.clock.sleep(INTERVAL_MS, options.signal);
      if (deps.clock.monotonicMs() - lastRoundMs > outageMs) {
        const prolonged = await prolongAllLeases(deps.sql, leaseTtlMs);
        deps.log.info({ leases: prolonged }, "back after an outage; leases were prolonged");
      }
      const ended = (await endLapsedLeases(deps)) + (await endExpiredTasks(deps));
      lastRoundMs = deps.clock.monotonicMs();
      options.onStatus(`last round ended ${ended} leases or tasks`);
    } catch (error) {
      if (isAborted(error, options.signal)) return;
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, "task loop round failed");
      options.onStatus(`waiting: ${describeError(error)}`);
    }
  }
}

export async function endLapsedLeases(deps: Pick<Deps, "sql" | "clock" | "wake" | "log">): Promise<number> {
  const ended = await inTransaction(deps.sql, async (tx) => {
    const lapsed = await lockLapsedLeases(tx, BATCH);
    for (const task of lapsed) {
      deps.log.warn({ taskId: task.id, nodeId: task.nodeId, fence: task.fence, attempt: task.attempt }, "lease lapsed");
      if (task.attempt < ATTEMPTS_MAX || task.kind === "slice.vm_release") {
        await settleTask(tx, { taskId: task.id, state: "ready", outcome: null, resultJws: null });
        await applyTaskRetry(tx, deps, { task, requestId: null });
      } else {
        await settleTask(tx, {
          taskId: task.id,
          state: "failed",
          outcome: { reason: "the lease lapsed too often" },
          resultJws: null,
        });
        await applyTaskAbandoned(tx, deps, {
          task,
          reason: `The host took the task ${task.attempt} times and never finished it.`,
        });
      }
    }
    return lapsed;
  });
  wakeAll(deps, ended);
  return ended.length;
}

async function endExpiredTasks(deps: Pick<Deps, "sql" | "clock" | "wake">): Promise<number> {
  const ended = await inTransaction(deps.sql, async (tx) => {
    const expired = await lockExpiredTasks(tx, BATCH);
    for (const task of expired) {
      await settleTask(tx, { taskId: task.id, state: "cancelled", outcome: { reason: "expired" }, resultJws: null });
      await applyTaskAbandoned(tx, deps, { task, reason: "The host did not pick the task up in time." });
    }
    return expired;
  });
  wakeAll(deps, ended);
  return ended.length;
}

function wakeAll(deps: Pick<Deps, "wake">, tasks: readonly TaskRow[]): void {
  for (const task of tasks) {
    deps.wake.wake(nodeTopic(task.nodeId));
    if (task.operationId !== null) deps.wake.wake(operationTopic(task.operationId));
  }
}
