import { ROOT_WAS_GIVEN } from "@hostler/shared/tasks.ts";
import { quarantineRooted } from "../nodes/quarantine-node.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import type { TaskEnd } from "./apply-task-ends.ts";
import type { AllocationRow, ReturnedSlots } from "./store.ts";
import { accessOf } from "./wish-of.ts";

/**
 * Whether the slice that ended had a tenant who may have been root on the host. Decided by what the slice was asked for as, from our own
 * record: what such a host says of itself may be the tenant's word. Only of a slice that never began to run the host is believed, or a
 * request that fails everywhere would take one host after the other. Pure.
 */
export function hadRoot(end: TaskEnd, { driver, labels }: Pick<AllocationRow, "driver" | "labels">): boolean {
  if (accessOf(driver, labels) !== "root" || end.kind === "retry") return false;
  if (end.task.kind === "slice.vm_release") return true;
  if (end.task.kind !== "slice.vm_provision") return false;
  return end.kind === "abandoned" ? end.task.attempt > 0 : end.result.facts["rootWasGiven"] === true;
}

/** The slots of such a host, whatever its receipts say. Pure. */
export function slotsAfterRoot(slots: ReturnedSlots): ReturnedSlots {
  return { ...slots, quarantineReason: slots.quarantineReason ?? `release: ${ROOT_WAS_GIVEN}` };
}

/** Nothing more is placed on the hosts of slices that gave back what they had. */
export async function quarantineAfterRoot(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  ended: readonly { readonly end: TaskEnd; readonly allocation: AllocationRow }[],
): Promise<void> {
  for (const { end, allocation } of ended)
    if (hadRoot(end, allocation))
      await quarantineRooted(tx, deps.clock, {
        nodeId: end.task.nodeId,
        taskId: end.task.id,
        requestId: end.requestId,
      });
}
