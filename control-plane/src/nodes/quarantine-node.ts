import type { Clock } from "@hostler/shared/clock.ts";
import { recordChange } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import { NODE_ACTIONS } from "./change-node-state.ts";
import { moveNode } from "./store.ts";

/**
 * Places nothing more on a host that a task found at fault; what runs on it runs on. What is quarantined, refused or gone already
 * stays what it is, so a second failure changes nothing.
 */
export async function quarantineNode(
  tx: Tx,
  clock: Clock,
  fault: { readonly nodeId: string; readonly taskId: string; readonly message: string; readonly requestId: string },
): Promise<void> {
  const reason = `host: ${fault.message}`.slice(0, 500);
  const moved = await moveNode(tx, fault.nodeId, "quarantined", { sources: NODE_ACTIONS.quarantine.from, reason });
  if (moved === undefined) return;
  await recordChange(tx, clock, {
    actor: "system:tasks",
    topic: "node.quarantined",
    targetId: fault.nodeId,
    targetVersion: moved.version,
    projectId: null,
    requestId: fault.requestId,
    body: { reason, taskId: fault.taskId },
  });
}
