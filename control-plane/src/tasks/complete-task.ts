import { createPublicKey, X509Certificate } from "node:crypto";
import { AppError } from "@hostler/shared/errors.ts";
import { isFinal, TASK_TRANSITIONS } from "@hostler/shared/states.ts";
import type { ResultClaims } from "@hostler/shared/tasks.ts";
import { sha256Hex, verifyResult } from "@hostler/pki";
import { applyTaskResult, applyTaskRetry } from "../allocations/apply-task-result.ts";
import { insertAuditRow } from "../audit/store.ts";
import type { Sql } from "../db/sql.ts";
import { nodeTopic, operationTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { quarantineNode } from "../nodes/quarantine-node.ts";
import { readNodeChains } from "../nodes/read-node-chains.ts";
import { requireHeld } from "./progress-task.ts";
import { lockTask, settleTask, type TaskRow } from "./store.ts";

/** Attempts of a task whose failures may pass; the first is one of them. */
export const ATTEMPTS_MAX = 3;

/**
 * Ends a task with a result that its node signed for the current grant. The same result twice is taken once. Throws
 * `result_invalid` when the signature or what it names is wrong, `lease_stale` when another grant owns the task.
 */
export async function completeTask(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  request: { readonly nodeId: string; readonly taskId: string; readonly resultJws: string; readonly requestId: string },
): Promise<void> {
  const claims = await verifyWithNodeKeys(deps.sql, request.nodeId, request.resultJws);
  if (claims.iss !== request.nodeId || claims.jti !== request.taskId)
    throw new AppError("result_invalid", { detail: "The result names another node or another task." });
  const task = await inTransaction(deps.sql, async (tx) => {
    const row = await lockTask(tx, request.taskId);
    if (
      row !== undefined &&
      row.nodeId === request.nodeId &&
      isFinal(TASK_TRANSITIONS, row.state) &&
      row.resultJws === request.resultJws
    )
      return row;
    const held = requireHeld(row, { nodeId: request.nodeId, fence: claims.fence });
    if (held.grantDigest !== claims.tdig)
      throw new AppError("result_invalid", { detail: "The result answers another grant of this task." });
    await insertAuditRow(tx, {
      actor: `node:${held.nodeId}`,
      action: "task.result",
      targetId: held.id,
      targetVersion: null,
      outcome: "succeeded",
      requestId: request.requestId,
      detail: {
        outcome: claims.outcome,
        fence: claims.fence,
        grantDigest: claims.tdig,
        resultDigest: sha256Hex(request.resultJws),
        code: claims.failure?.code ?? null,
      },
    });
    if (mayRetry(held, claims)) {
      await settleTask(tx, { taskId: held.id, state: "ready", outcome: claims, resultJws: null });
      await applyTaskRetry(tx, deps, { task: held, requestId: request.requestId });
    } else {
      await settleTask(tx, { taskId: held.id, state: claims.outcome, outcome: claims, resultJws: request.resultJws });
      await applyTaskResult(tx, deps, { task: held, result: claims, requestId: request.requestId });
      if (claims.failure?.class === "host") {
        const { nodeId, requestId } = request;
        const { message } = claims.failure;
        await quarantineNode(tx, deps.clock, { nodeId, taskId: held.id, message, requestId });
      }
    }
    return held;
  });
  deps.wake.wake(nodeTopic(task.nodeId));
  if (task.operationId !== null) deps.wake.wake(operationTopic(task.operationId));
}

function mayRetry(task: TaskRow, claims: ResultClaims): boolean {
  return (
    claims.outcome === "failed" &&
    claims.failure?.class === "transient" &&
    task.attempt < ATTEMPTS_MAX &&
    !task.cancelRequested &&
    task.operationId !== null
  );
}

/** A node that renewed in the middle of a task may sign with its former key; any key of it that is not revoked will do. */
async function verifyWithNodeKeys(sql: Sql, nodeId: string, jws: string): Promise<ResultClaims> {
  let refusal: unknown = new AppError("result_invalid", { detail: "The node has no certificate." });
  for (const chainPem of await readNodeChains(sql, nodeId)) {
    const key = createPublicKey(new X509Certificate(chainPem).publicKey.export({ type: "spki", format: "pem" }));
    try {
      return await verifyResult(jws, key);
    } catch (error) {
      refusal = error;
    }
  }
  throw refusal;
}
