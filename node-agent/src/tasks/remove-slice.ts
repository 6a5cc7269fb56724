import type { TaskParams } from "@hostler/shared/tasks.ts";
import type { SliceReference } from "../ports/slice-driver.ts";
import { refuse } from "./provision-slice.ts";
import { releaseSlice } from "./release-slice.ts";
import type { SliceTaskDeps } from "./slice-task-deps.ts";
import type { Conclusion, GrantedTask } from "./task.ts";

/**
 * Removes a slice that should not be here, by the phases of any release. The signed task is the tombstone: nothing is ever
 * removed because a list does not name it. One that means another generation than this host has is refused: whoever wrote it
 * knows less than the host.
 */
export async function removeSlice(
  deps: SliceTaskDeps,
  task: GrantedTask,
  params: TaskParams<"slice.remove">,
): Promise<Conclusion> {
  const { reason, ...slice } = params;
  const generations = await generationsOf(deps, slice, task.stop);
  if (generations.size > 0 && !generations.has(slice.generation)) {
    const found = [...generations].toSorted((a, b) => a - b).join(", ");
    const message = `The tombstone is for generation ${slice.generation}; this host has ${found}.`;
    return refuse(task, { code: "journal_conflict", message, isUntouched: false });
  }
  deps.log.warn({ ...slice, reason, taskId: task.claims.jti }, "a slice is removed by a signed tombstone");
  return await releaseSlice(deps, task, slice);
}

async function generationsOf(
  deps: SliceTaskDeps,
  { allocationId }: SliceReference,
  signal: AbortSignal,
): Promise<ReadonlySet<number>> {
  const lists = await Promise.all([...deps.drivers.values()].map(async (driver) => await driver.listSlices(signal)));
  const all = [...lists.flat(), ...(await deps.journals.list()), ...Object.values(await deps.ledger.read())];
  return new Set(all.filter((other) => other.allocationId === allocationId).map((other) => other.generation));
}
