import type { Clock } from "@hostler/shared/clock.ts";
import { ROOT_WAS_GIVEN } from "@hostler/shared/tasks.ts";
import { recordChange } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import { insertAuditRow } from "../audit/store.ts";
import { NODE_ACTIONS } from "./change-node-state.ts";
import { countBlamed } from "./lifecycle-store.ts";
import { allowedToFall } from "./model.ts";
import { moveNode } from "./store.ts";

/**
 * Places nothing more on a host that a task found at fault; what runs on it runs on. What is quarantined, refused or gone already
 * stays what it is, so a second failure changes nothing. When tasks have blamed many hosts within the hour it is more likely the
 * tasks: a tenant's request that fails everywhere must not take the fleet. Then it is only told in the audit log.
 */
export async function quarantineNode(
  tx: Tx,
  clock: Clock,
  fault: { readonly nodeId: string; readonly taskId: string; readonly message: string; readonly requestId: string },
): Promise<void> {
  const { blamed, nodes } = await countBlamed(tx);
  if (blamed >= allowedToFall(nodes)) {
    await insertAuditRow(tx, {
      actor: "system:tasks",
      action: "node.quarantine_withheld",
      targetId: fault.nodeId,
      targetVersion: null,
      outcome: "refused",
      requestId: fault.requestId,
      detail: { taskId: fault.taskId, message: fault.message, blamed, nodes },
    });
    return;
  }
  await quarantine(tx, clock, { ...fault, reason: `host: ${fault.message}`.slice(0, 500) });
}

/** After a tenant was root on it. That is known and not suspected, so however many hosts it meets, none is spared. */
export async function quarantineRooted(
  tx: Tx,
  clock: Clock,
  rooted: { readonly nodeId: string; readonly taskId: string; readonly requestId: string | null },
): Promise<void> {
  await quarantine(tx, clock, { ...rooted, reason: `host: ${ROOT_WAS_GIVEN}` });
}

async function quarantine(
  tx: Tx,
  clock: Clock,
  fault: {
    readonly nodeId: string;
    readonly taskId: string;
    readonly requestId: string | null;
    readonly reason: string;
  },
): Promise<void> {
  const { reason } = fault;
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
