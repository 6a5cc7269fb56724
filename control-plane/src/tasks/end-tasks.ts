import type { PhaseEvent, ResultClaims } from "@hostler/shared/tasks.ts";
import { applyTaskEnds, type TaskEnd } from "../allocations/apply-task-ends.ts";
import { nodeTopic, operationTopic } from "../db/wake-bus.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { keepReceipts } from "../nodes/keep-receipts.ts";
import { moveToHistory, type EndedTask } from "./history-store.ts";
import type { Verdict } from "./model.ts";
import { putBack, type TaskRow } from "./store.ts";

/** A task that the caller holds, and what becomes of it. */
export interface Settled {
  readonly task: TaskRow;
  readonly verdict: Verdict | { readonly kind: "expired" };
  /** Null when no host said anything. */
  readonly result: {
    readonly claims: ResultClaims;
    readonly jws: string;
    /** What the host told together with it. */
    readonly events: readonly PhaseEvent[];
  } | null;
  readonly requestId: string | null;
}

/**
 * Writes what became of tasks and of what they are about, in the transaction that holds their rows. Resolves with the topics to
 * wake after the commit.
 */
export async function settleTasks(tx: Tx, deps: Pick<Deps, "clock">, settled: readonly Settled[]): Promise<string[]> {
  const retries = settled.flatMap(({ verdict }) => (verdict.kind === "retry" ? [verdict.retry] : []));
  if (retries.length > 0) await putBack(tx, retries);
  const ended = settled.filter(({ verdict }) => verdict.kind !== "retry");
  if (ended.length > 0) await moveToHistory(tx, ended.map(endedTask));
  await keepReceipts(tx, ended.flatMap(receiptOf));
  const nodeIds = await applyTaskEnds(tx, deps, settled.map(taskEnd));
  for (const { task, verdict } of settled) if (verdict.kind === "retry") nodeIds.add(task.nodeId);
  const operationIds = settled.flatMap(({ task }) => (task.operationId === null ? [] : [task.operationId]));
  return [...[...nodeIds].map(nodeTopic), ...operationIds.map(operationTopic)];
}

function endedTask({ task, verdict, result }: Settled): EndedTask {
  const base = { taskId: task.id, outcome: result?.claims ?? null, resultJws: result?.jws ?? null, deadReason: null };
  if (verdict.kind === "expired") return { ...base, state: "cancelled" };
  if (verdict.kind === "dead") return { ...base, state: "failed", deadReason: verdict.reason };
  return { ...base, state: result?.claims.outcome ?? "failed" };
}

/** Nothing, where the slice goes on. */
function receiptOf({ task, result }: Settled) {
  const isEnd =
    task.kind === "slice.vm_release" ||
    task.kind === "slice.remove" ||
    (task.kind === "slice.vm_provision" && result?.claims.outcome !== "succeeded");
  if (result === null || !isEnd) return [];
  const { nodeId, id: taskId, targetId: allocationId, kind } = task;
  return [{ nodeId, taskId, allocationId, kind, resultJws: result.jws, claims: result.claims }];
}

function taskEnd({ task, verdict, result, requestId }: Settled): TaskEnd {
  const end = { task, events: result?.events ?? [], requestId };
  switch (verdict.kind) {
    case "retry":
      return { ...end, kind: "retry" };
    case "expired":
      return { ...end, kind: "abandoned", reason: "The host did not pick the task up in time." };
    case "dead":
      return { ...end, kind: "abandoned", reason: verdict.reason };
    case "ended":
    case "place_again": {
      if (result === null) throw new Error("only a result ends a task in this way");
      return { ...end, kind: verdict.kind, result: result.claims };
    }
  }
}
