import { newId } from "@hostler/shared/ids.ts";
import { TASK_PARAMS, type TaskKind, type TaskParams } from "@hostler/shared/tasks.ts";
import { sha256Hex } from "@hostler/pki";
import { insertAuditRow } from "../audit/store.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { insertTask, raiseDesiredRevision } from "./store.ts";

export interface TaskRequest<Kind extends TaskKind> {
  readonly nodeId: string;
  readonly kind: Kind;
  readonly params: TaskParams<Kind>;
  /** What the task is about: an allocation or a terminal. */
  readonly targetId: string;
  readonly operationId: string | null;
  /** A task that its node has not picked up by then fails. */
  readonly expiresInMs: number;
}

/**
 * Writes a task for a node in the caller's transaction and raises the node's revision, which its poll waits for. The caller
 * wakes `nodeTopic(nodeId)` after the commit. The params are checked here against the schema that the agent checks with.
 */
export async function enqueueTask<Kind extends TaskKind>(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  request: TaskRequest<Kind>,
): Promise<{ readonly taskId: string }> {
  const params = JSON.stringify(TASK_PARAMS[request.kind].parse(request.params));
  const taskId = newId("task", deps.clock);
  const revision = await raiseDesiredRevision(tx, request.nodeId);
  const { nodeId, operationId, targetId, kind, expiresInMs } = request;
  await insertTask(tx, {
    id: taskId,
    nodeId,
    operationId,
    targetId,
    kind,
    params,
    paramsDigest: sha256Hex(params),
    revision,
    expiresInMs,
  });
  await insertAuditRow(tx, {
    actor: "system:tasks",
    action: "task.enqueued",
    targetId: taskId,
    targetVersion: null,
    outcome: "succeeded",
    requestId: null,
    // The params may hold what a tenant keeps secret; their digest says which they were.
    detail: { nodeId, kind, about: targetId, paramsDigest: sha256Hex(params) },
  });
  return { taskId };
}
