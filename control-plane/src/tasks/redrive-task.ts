import type { AllocationOperation } from "@hostler/shared/api/allocations.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { releaseAllocation } from "../allocations/release-allocation.ts";
import type { Deps } from "../deps.ts";
import type { Principal } from "../identity/permissions.ts";
import { findDeadTask, noteRedriven } from "./history-store.ts";

/**
 * Tries a dead release again, as a new task. A dead provision has nothing to try again: its allocation failed and owns nothing, and
 * whoever wants it asks anew. Throws `not_found` or `conflict`.
 */
export async function redriveTask(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  request: { readonly principal: Principal; readonly taskId: string; readonly requestId: string },
): Promise<AllocationOperation> {
  const { principal, taskId, requestId } = request;
  const task = await findDeadTask(deps.sql, taskId);
  if (task === undefined) throw new AppError("not_found");
  if (task.kind !== "slice.vm_release") {
    throw new AppError("conflict", {
      detail: `The allocation of a dead ${task.kind} has failed and owns nothing. Free its quarantined slots and ask for a slice anew.`,
    });
  }
  const released = await releaseAllocation(deps, { principal, allocationId: task.targetId, requestId });
  await noteRedriven(deps.sql, taskId);
  return released;
}
