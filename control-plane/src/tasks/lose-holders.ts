import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { settleTasks } from "./end-tasks.ts";
import { judgeLoss, type Loss } from "./model.ts";
import { lockExpiredTasks, lockForgottenLeases, lockLapsedLeases, lockLostGrants, type TaskRow } from "./store.ts";

const BATCH = 100;

type LossDeps = Pick<Deps, "sql" | "clock" | "wake" | "log"> & { readonly random?: () => number };

/** Leases that ended by the database's clock: to be granted anew under a higher fence, or dead. Resolves with how many. */
export async function endLapsedLeases(deps: LossDeps): Promise<number> {
  return await loseHolders(deps, "lease lapsed", async (tx) => await lockLapsedLeases(tx, BATCH));
}

/**
 * A restarted agent holds only what it lists: what its former self held is free again at once, so that it resumes without waiting
 * for the leases to end. The next grant has a higher fence, so a former self that still lives is refused.
 */
export async function endForgottenLeases(
  deps: LossDeps,
  agent: { readonly nodeId: string; readonly stillHeld: readonly string[]; readonly loss: Loss },
): Promise<number> {
  return await loseHolders(deps, agent.loss, async (tx) => await lockForgottenLeases(tx, agent));
}

/** A grant that never came is given again so often; then its task waits for its lease to end, as of an agent that is in trouble. */
const LOST_ATTEMPTS_MAX = 3;

/** Grants above the last that came to the agent, of polls before this one, were lost on the way: free again at once. */
export async function endLostGrants(
  deps: LossDeps,
  agent: { readonly nodeId: string; readonly takenSeq: number; readonly poll: number },
): Promise<number> {
  const lost = { ...agent, attemptsMax: LOST_ATTEMPTS_MAX };
  return await loseHolders(deps, "grant lost", async (tx) => await lockLostGrants(tx, lost));
}

/** Tasks that their node did not pick up in time. */
export async function endExpiredTasks(deps: LossDeps): Promise<number> {
  const { topics, count } = await inTransaction(deps.sql, async (tx) => {
    const expired = await lockExpiredTasks(tx, BATCH);
    const settled = expired.map(
      (task) => ({ task, verdict: { kind: "expired" }, result: null, requestId: null }) as const,
    );
    return { topics: settled.length === 0 ? [] : await settleTasks(tx, deps, settled), count: expired.length };
  });
  for (const topic of topics) deps.wake.wake(topic);
  return count;
}

async function loseHolders(deps: LossDeps, loss: Loss, lock: (tx: Tx) => Promise<TaskRow[]>): Promise<number> {
  const { topics, lost } = await inTransaction(deps.sql, async (tx) => {
    const tasks = await lock(tx);
    const settled = tasks.map((task) => ({
      task,
      verdict: judgeLoss(task, loss, deps.random ?? Math.random),
      result: null,
      requestId: null,
    }));
    return { topics: settled.length === 0 ? [] : await settleTasks(tx, deps, settled), lost: settled };
  });
  for (const { task, verdict } of lost) {
    const { id: taskId, nodeId, fence, attempt, phase } = task;
    const fields = { taskId, nodeId, fence, attempt, phase, loss };
    if (verdict.kind === "dead") deps.log.error({ ...fields, reason: verdict.reason }, "task is dead");
    else deps.log.warn(fields, "task lost its holder, it is handed out again");
  }
  for (const topic of topics) deps.wake.wake(topic);
  return lost.length;
}
