import { isAppError } from "@hostler/shared/errors.ts";
import { sliceSpecSchema, type ResultClaims } from "@hostler/shared/tasks.ts";
import { recordChange } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { enqueueTask } from "../tasks/enqueue-task.ts";
import { listNodesTried } from "../tasks/list-nodes-tried.ts";
import type { TaskRow } from "../tasks/task-row.ts";
import { returnedSlots } from "./judge-task-end.ts";
import { PROVISION_EXPIRES_MS, slotsOf } from "./own-placement.ts";
import { place } from "./placement.ts";
import { accessOf } from "./wish-of.ts";
import { protocolVersionFor } from "./ports.ts";
import { freeSlotsOf } from "./free-slots.ts";
import { giveCapacityBack, moveToNode, ownSlots, type AllocationRow } from "./store.ts";

/**
 * A host gave its slice back, undone, for want of room or because a device or the host itself is at fault: the slice goes to a host that
 * it was not on yet, as a new generation under the same operation. False when there is none; then nothing has changed.
 */
export async function placeAgain(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  allocation: AllocationRow,
  failed: { readonly task: TaskRow; readonly result: ResultClaims; readonly requestId: string | null },
): Promise<boolean> {
  const { task, result, requestId } = failed;
  const operationId = task.operationId ?? allocation.operationId;
  const spec = sliceSpecSchema.parse(JSON.parse(task.params));
  const wish = {
    gpus: { count: allocation.gpus.length, kind: allocation.gpus[0]?.kind ?? null },
    vcpus: allocation.vcpus,
    memoryMib: allocation.memoryMib,
    driver: allocation.driver,
    access: accessOf(allocation.driver, spec.labels),
    nodeSelector: allocation.nodeSelector,
    spreadBy: allocation.spreadBy,
    protocolVersion: protocolVersionFor(spec),
  };
  const without = await listNodesTried(tx, operationId);
  // Its own row is still on the old node, which is not asked: it cannot be in its own way.
  const placement = await place(tx, { projectId: allocation.projectId, wish, count: 1, without })
    .then(([first]) => first)
    .catch((error: unknown) => {
      if (isAppError(error, "capacity_unavailable")) return undefined;
      throw error;
    });
  if (placement === undefined) return false;
  await freeSlotsOf(tx, [{ ...allocation, ...returnedSlots(result, allocation) }]);
  await giveCapacityBack(tx, [allocation]);
  const generation = allocation.generation + 1;
  const gpus = slotsOf(placement);
  const { nodeId, gpusSimulated, vcpus, memoryMib } = placement;
  const uuids = gpus.map((gpu) => gpu.uuid);
  const moved = { ...spec, generation, gpuUuids: uuids, vcpus, memoryMib };
  const version = await moveToNode(tx, { id: allocation.id, generation, nodeId, gpus, gpusSimulated, spec: moved });
  await ownSlots(tx, [{ nodeId, uuids, allocationId: allocation.id }]);
  await enqueueTask(tx, deps, {
    nodeId,
    kind: "slice.vm_provision",
    params: moved,
    targetId: allocation.id,
    operationId,
    expiresInMs: PROVISION_EXPIRES_MS,
    failures: task.failures + 1,
  });
  await recordChange(tx, deps.clock, {
    actor: `node:${task.nodeId}`,
    topic: "allocation.placed_again",
    targetId: allocation.id,
    targetVersion: version,
    projectId: allocation.projectId,
    requestId,
    body: { operationId, nodeId, from: task.nodeId, generation, reason: result.failure?.message ?? null },
  });
  return true;
}
