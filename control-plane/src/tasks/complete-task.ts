import type { KeyObject } from "node:crypto";
import { type Outcome, onlyOutcome } from "@hostler/shared/coalesce.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { PhaseEvent, ResultClaims } from "@hostler/shared/tasks.ts";
import { sha256Hex } from "@hostler/pki";
import { insertAuditRows } from "../audit/store.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { quarantineNode } from "../nodes/quarantine-node.ts";
import { settleTasks, type Settled } from "./end-tasks.ts";
import { findPastTasks, insertPhaseReports, type PastTask } from "./history-store.ts";
import { judgeResult } from "./model.ts";
import { isHeldBy, staleError } from "./progress-task.ts";
import { lockTasks, type TaskRow } from "./store.ts";
import { verifyWithNodeKeys } from "./verify-with-node-keys.ts";

export interface TaskCompletion {
  readonly nodeId: string;
  readonly taskId: string;
  readonly resultJws: string;
  /** What the node did not tell of the task before; empty when it told everything. */
  readonly events: readonly PhaseEvent[];
  readonly requestId: string;
}

/** A result whose signature was checked. */
export interface VerifiedCompletion extends TaskCompletion {
  readonly claims: ResultClaims;
}

type CompleteDeps = Pick<Deps, "sql" | "clock" | "wake"> & { readonly random: () => number };

/** The claims of a result, when this node signed them for this task. `key`: that of the connection, tried first. */
export async function verifyCompletion(
  deps: Pick<Deps, "sql">,
  completion: TaskCompletion,
  key: KeyObject | null = null,
): Promise<VerifiedCompletion> {
  const claims = await verifyWithNodeKeys(deps.sql, { nodeId: completion.nodeId, jws: completion.resultJws, key });
  if (claims.iss !== completion.nodeId || claims.jti !== completion.taskId)
    throw new AppError("result_invalid", { detail: "The result names another node or another task." });
  return { ...completion, claims };
}

/**
 * Ends tasks with results that their nodes signed for the current grants, in one transaction. The same result twice is taken once.
 * Each outcome is its own: `result_invalid` when it names another grant, `lease_stale` when another grant owns the task.
 */
export async function completeTasks(
  deps: CompleteDeps,
  completions: readonly VerifiedCompletion[],
): Promise<Outcome<null>[]> {
  const firsts = completions.filter(
    (one, index) => completions.findIndex(({ taskId }) => taskId === one.taskId) === index,
  );
  const outcomes = new Map<VerifiedCompletion, Outcome<null>>();
  for (const [index, outcome] of (await completeEach(deps, firsts)).entries()) {
    const completion = firsts[index];
    if (completion !== undefined) outcomes.set(completion, outcome);
  }
  // A result that was sent twice at once: the second finds what became of the first.
  for (const again of completions) {
    if (outcomes.has(again)) continue;
    const [outcome] = await completeEach(deps, [again]);
    if (outcome !== undefined) outcomes.set(again, outcome);
  }
  return completions.map((one) => outcomes.get(one) ?? { error: new Error("a result without an outcome") });
}

/** No two of one task. */
async function completeEach(deps: CompleteDeps, completions: readonly VerifiedCompletion[]): Promise<Outcome<null>[]> {
  const ids = completions.map(({ taskId }) => taskId);
  const { outcomes, topics } = await inTransaction(deps.sql, async (tx) => {
    const live = new Map((await lockTasks(tx, ids)).map((task) => [task.id, task]));
    const missing = ids.filter((id) => !live.has(id));
    const past = missing.length === 0 ? [] : await findPastTasks(tx, missing);
    const judged = completions.map((completion) => judge(completion, live.get(completion.taskId), past));
    const taken = judged.flatMap((one) => (one.kind === "taken" ? [one] : []));
    if (taken.length === 0) return { outcomes: judged.map(({ outcome }) => outcome), topics: [] };
    await insertAuditRows(tx, taken.map(auditRowOf));
    await insertPhaseReports(
      tx,
      taken.map(({ task, completion }) => ({ taskId: task.id, attempt: task.attempt, events: completion.events })),
    );
    const settled = taken.map(({ task, completion }): Settled => ({
      task,
      verdict: judgeResult(task, completion.claims, deps.random),
      result: { claims: completion.claims, jws: completion.resultJws, events: completion.events },
      requestId: completion.requestId,
    }));
    const woken = await settleTasks(tx, deps, settled);
    await quarantineBlamed(tx, deps, settled);
    return { outcomes: judged.map(({ outcome }) => outcome), topics: woken };
  });
  for (const topic of topics) deps.wake.wake(topic);
  return outcomes;
}

/** One result, verified and taken. */
export async function completeTask(
  deps: Pick<Deps, "sql" | "clock" | "wake"> & { readonly random?: () => number },
  completion: TaskCompletion,
): Promise<void> {
  const verified = await verifyCompletion(deps, completion);
  onlyOutcome(await completeTasks({ ...deps, random: deps.random ?? Math.random }, [verified]));
}

type Judged =
  | { readonly kind: "done"; readonly outcome: Outcome<null> }
  | {
      readonly kind: "taken";
      readonly outcome: Outcome<null>;
      readonly task: TaskRow;
      readonly completion: VerifiedCompletion;
    };

function judge(completion: VerifiedCompletion, task: TaskRow | undefined, past: readonly PastTask[]): Judged {
  const { nodeId, taskId, claims, resultJws } = completion;
  const before = past.find((one) => one.id === taskId && one.nodeId === nodeId);
  if (before !== undefined && before.resultJws === resultJws) return { kind: "done", outcome: { value: null } };
  if (before !== undefined) {
    const error = new AppError("lease_stale", { detail: `The task is ${before.state}.` });
    return { kind: "done", outcome: { error } };
  }
  if (task === undefined || !isHeldBy(task, { nodeId, fence: claims.fence }))
    return { kind: "done", outcome: { error: staleError(task, { nodeId }) } };
  if (task.grantDigest !== claims.tdig) {
    const error = new AppError("result_invalid", { detail: "The result answers another grant of this task." });
    return { kind: "done", outcome: { error } };
  }
  return { kind: "taken", outcome: { value: null }, task, completion };
}

function auditRowOf({ task, completion }: { readonly task: TaskRow; readonly completion: VerifiedCompletion }) {
  const { claims, resultJws, requestId } = completion;
  return {
    actor: `node:${task.nodeId}`,
    action: "task.result",
    targetId: task.id,
    targetVersion: null,
    outcome: "succeeded",
    requestId,
    detail: {
      outcome: claims.outcome,
      fence: claims.fence,
      grantDigest: claims.tdig,
      resultDigest: sha256Hex(resultJws),
      code: claims.failure?.code ?? null,
    },
  } as const;
}

/** A host that says it is at fault itself gets nothing more, wherever its task goes. */
async function quarantineBlamed(tx: Tx, deps: Pick<Deps, "clock">, settled: readonly Settled[]): Promise<void> {
  for (const { task, result, requestId } of settled) {
    const failure = result?.claims.failure;
    if (failure?.class !== "host" || requestId === null) continue;
    const { nodeId, id: taskId } = task;
    await quarantineNode(tx, deps.clock, { nodeId, taskId, message: failure.message, requestId });
  }
}
