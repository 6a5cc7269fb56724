import { newId } from "@hostler/shared/ids.ts";
import { TASK_PARAMS, type TaskKind, type TaskParams } from "@hostler/shared/tasks.ts";
import { sha256Hex } from "@hostler/pki";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { TASK_PRIORITIES } from "./model.ts";
import { insertTasks } from "./store.ts";

export interface TaskRequest<Kind extends TaskKind> {
  readonly nodeId: string;
  readonly kind: Kind;
  readonly params: TaskParams<Kind>;
  /** What the task is about: an allocation or a terminal. */
  readonly targetId: string;
  readonly operationId: string | null;
  /** A task that its node has not picked up by then fails. */
  readonly expiresInMs: number;
  /** How often the same work failed on other nodes. */
  readonly failures?: number;
}

/**
 * Writes a task for a node in the caller's transaction. The caller wakes `nodeTopic(nodeId)` after the commit. The params are
 * checked here against the schema that the agent checks with.
 */
export async function enqueueTask<Kind extends TaskKind>(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  request: TaskRequest<Kind>,
): Promise<{ readonly taskId: string }> {
  const [taskId = ""] = await enqueueTasks(tx, deps, [request]);
  return { taskId };
}

/** The same for several tasks, in one statement. Resolves with their ids in the same order. */
export async function enqueueTasks<Kind extends TaskKind>(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  requests: readonly TaskRequest<Kind>[],
): Promise<string[]> {
  const tasks = requests.map(({ nodeId, operationId, targetId, kind, expiresInMs, failures = 0, ...request }) => {
    const params = JSON.stringify(TASK_PARAMS[kind].parse(request.params));
    const paramsDigest = sha256Hex(params);
    const priority = TASK_PRIORITIES[kind];
    const id = newId("task", deps.clock);
    return { id, nodeId, operationId, targetId, kind, priority, params, paramsDigest, expiresInMs, failures };
  });
  await insertTasks(tx, tasks);
  return tasks.map(({ id }) => id);
}
