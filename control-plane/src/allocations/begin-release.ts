import { newId } from "@hostler/shared/ids.ts";
import { RELEASE_PHASE_NAMES } from "@hostler/shared/phases.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { openOperation } from "../operations/operations.ts";
import { enqueueTask } from "../tasks/enqueue-task.ts";
import { moveAndRecord } from "./record-allocation.ts";
import { setOperation, type AllocationRow } from "./store.ts";

/** A release must happen, however long the host is away. */
const RELEASE_EXPIRES_MS = 365 * 86_400_000;

/** Writes the operation and task that take a slice down, and moves the allocation to `releasing` unless it is there already. */
export async function beginRelease(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  allocation: AllocationRow,
  by: { readonly actor: string; readonly requestId: string | null },
): Promise<void> {
  const operationId = newId("operation", deps.clock);
  const { id, projectId, nodeId, generation, driver } = allocation;
  const phasesTotal = RELEASE_PHASE_NAMES.length;
  await openOperation(tx, { id: operationId, kind: "allocation.release", targetId: id, projectId, phasesTotal });
  const params = { allocationId: id, generation, driver };
  await enqueueTask(tx, deps, {
    nodeId,
    kind: "slice.vm_release",
    params,
    targetId: id,
    operationId,
    expiresInMs: RELEASE_EXPIRES_MS,
  });
  if (allocation.state === "releasing") await setOperation(tx, id, operationId);
  else await moveAndRecord(tx, deps, allocation, { target: "releasing", reason: null, operationId, ...by });
}
