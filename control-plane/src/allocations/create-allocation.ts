import type { AllocationCreate, AllocationOperation } from "@hostler/shared/api/allocations.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import { PROVISION_PHASE_NAMES } from "@hostler/shared/phases.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { recordChange } from "../audit/record-change.ts";
import { isUniqueViolation } from "../db/pool.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { requireInProject, type Principal } from "../identity/permissions.ts";
import { requireImage, type ImageRow } from "../images/require-image.ts";
import { openOperation } from "../operations/operations.ts";
import { enqueueTask } from "../tasks/enqueue-task.ts";
import { place, type Placement } from "./placement.ts";
import { getAllocationOperation } from "./read-allocation.ts";
import { insertAllocation, ownSlots } from "./store.ts";

/** A host that does not pick a provision task up for this long is given up on. */
const PROVISION_EXPIRES_MS = 15 * 60_000;
/** The label that asks for the mock driver; the host must have been started with it. */
const DRIVER_LABEL = "hostler.dev/driver";

export interface AllocationRequest {
  readonly principal: Principal;
  readonly projectId: string;
  readonly requestId: string;
  readonly wish: AllocationCreate;
}

/** Places a slice and writes everything about it in one transaction, then wakes its node. */
export async function createAllocation(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  request: AllocationRequest,
): Promise<AllocationOperation> {
  requireInProject(request.principal, "compute.allocation.create", request.projectId);
  const image = await requireImage(deps.sql, request.wish.image);
  const { allocationId, nodeId } = await inTransaction(
    deps.sql,
    async (tx) => await placeAndWrite(tx, deps, request, image),
  ).catch((error: unknown) => {
    if (isUniqueViolation(error, "allocations_live_name")) {
      throw new AppError("conflict", {
        detail: `The project has a live allocation named ${request.wish.name}. Choose another name or release it.`,
        cause: error,
      });
    }
    throw error;
  });
  deps.wake.wake(nodeTopic(nodeId));
  return await getAllocationOperation(deps.sql, allocationId);
}

async function placeAndWrite(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  request: AllocationRequest,
  image: ImageRow,
): Promise<{ readonly allocationId: string; readonly nodeId: string }> {
  const { wish, projectId } = request;
  const driver = wish.labels[DRIVER_LABEL] === "mock" ? "mock" : "qemu";
  const allocationId = newId("allocation", deps.clock);
  const operationId = newId("operation", deps.clock);
  const placement = await place(tx, { driver, vcpus: wish.vcpus, memoryMib: wish.memoryMib, gpus: wish.gpus });
  await openOperation(tx, {
    id: operationId,
    kind: "allocation.provision",
    targetId: allocationId,
    projectId,
    phasesTotal: PROVISION_PHASE_NAMES.length,
  });
  const gpus = placement.gpus.map((gpu) => ({ uuid: gpu.uuid, model: gpu.model, kind: gpu.kind }));
  const { nodeId, gpusSimulated } = placement;
  await insertAllocation(tx, {
    id: allocationId,
    projectId,
    driver,
    imageId: image.id,
    operationId,
    nodeId,
    gpus,
    gpusSimulated,
    ...sizeOf(wish),
  });
  const owned = await ownSlots(tx, { nodeId, uuids: gpus.map((gpu) => gpu.uuid), allocationId });
  if (owned !== gpus.length) throw new Error("a locked free slot was not free");
  await enqueueTask(tx, deps, {
    nodeId,
    kind: "slice.vm_provision",
    params: specOf(allocationId, { wish, driver, image, placement }),
    targetId: allocationId,
    operationId,
    expiresInMs: PROVISION_EXPIRES_MS,
  });
  await recordChange(tx, deps.clock, {
    actor: request.principal.id,
    topic: "allocation.requested",
    targetId: allocationId,
    targetVersion: 1,
    projectId,
    requestId: request.requestId,
    body: { name: wish.name, nodeId, gpus: gpus.map((gpu) => gpu.uuid), operationId },
  });
  return { allocationId, nodeId };
}

function sizeOf(wish: AllocationCreate): Pick<AllocationCreate, "name" | "vcpus" | "memoryMib" | "diskGib" | "labels"> {
  return { name: wish.name, vcpus: wish.vcpus, memoryMib: wish.memoryMib, diskGib: wish.diskGib, labels: wish.labels };
}

function specOf(
  allocationId: string,
  parts: {
    readonly wish: AllocationCreate;
    readonly driver: "qemu" | "mock";
    readonly image: ImageRow;
    readonly placement: Placement;
  },
): SliceSpec {
  const { wish, image } = parts;
  return {
    allocationId,
    generation: 1,
    driver: parts.driver,
    hostName: wish.name,
    vcpus: wish.vcpus,
    memoryMib: wish.memoryMib,
    diskGib: wish.diskGib,
    image: { name: image.name, sha256: image.sha256, sizeBytes: image.sizeBytes, format: image.format },
    gpuUuids: parts.placement.gpus.map((gpu) => gpu.uuid),
    sshPublicKeys: [...wish.sshPublicKeys],
    userData: wish.userData,
    labels: wish.labels,
  };
}
