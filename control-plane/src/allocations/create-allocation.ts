import type {
  AllocationCreate,
  AllocationGroup,
  AllocationGroupCreate,
  AllocationOperation,
} from "@hostler/shared/api/allocations.ts";
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
import { demandOf, requireQuota } from "./quota.ts";
import { getAllocationOperation } from "./read-allocation.ts";
import { insertAllocation, ownSlots } from "./store.ts";
import { wishOf } from "./wish-of.ts";

/** A host that does not pick a provision task up for this long is given up on. */
const PROVISION_EXPIRES_MS = 15 * 60_000;

interface Asked {
  readonly principal: Principal;
  readonly projectId: string;
  readonly requestId: string;
}

type CreateDeps = Pick<Deps, "sql" | "clock" | "wake">;

/** Places a slice and writes everything about it in one transaction, then wakes its node. */
export async function createAllocation(
  deps: CreateDeps,
  request: Asked & { readonly wish: AllocationCreate },
): Promise<AllocationOperation> {
  const { wish, ...asked } = request;
  const [allocationId = ""] = await createTogether(deps, asked, { wishes: [wish], groupId: null });
  return await getAllocationOperation(deps.sql, allocationId);
}

/** Places all slices of a gang and writes them in one transaction, or none: a gang is never half there. */
export async function createAllocationGroup(
  deps: CreateDeps,
  request: Asked & { readonly group: AllocationGroupCreate },
): Promise<AllocationGroup> {
  const { group, ...asked } = request;
  const groupId = newId("allocationGroup", deps.clock);
  const wishes = Array.from({ length: group.count }, (_, index) => ({
    ...group.template,
    name: `${group.name}-${index}`,
  }));
  const ids = await createTogether(deps, asked, { wishes, groupId });
  const allocations = await Promise.all(ids.map(async (id) => await getAllocationOperation(deps.sql, id)));
  return { id: groupId, allocations };
}

interface Gang {
  /** Alike but for their names. */
  readonly wishes: readonly AllocationCreate[];
  readonly groupId: string | null;
}

async function createTogether(deps: CreateDeps, asked: Asked, gang: Gang): Promise<string[]> {
  requireInProject(asked.principal, "compute.allocation.create", asked.projectId);
  const [first] = gang.wishes;
  if (first === undefined) throw new Error("a gang has at least one slice");
  const image = await requireImage(deps.sql, first.image);
  const made = await inTransaction(deps.sql, async (tx) => {
    const { projectId } = asked;
    const wish = wishOf(first);
    const count = gang.wishes.length;
    await requireQuota(tx, projectId, demandOf(wish, count));
    const placements = await place(tx, { projectId, wish, count });
    const written: { readonly id: string; readonly nodeId: string }[] = [];
    for (const [index, one] of gang.wishes.entries()) {
      const placement = placements[index];
      if (placement === undefined) throw new Error("fewer places than slices");
      const id = await write(tx, deps, { asked, wish: one, image, placement, groupId: gang.groupId });
      written.push({ id, nodeId: placement.nodeId });
    }
    return written;
  }).catch(refuseTakenName);
  for (const nodeId of new Set(made.map((one) => one.nodeId))) deps.wake.wake(nodeTopic(nodeId));
  return made.map((one) => one.id);
}

function refuseTakenName(error: unknown): never {
  if (isUniqueViolation(error, "allocations_live_name")) {
    throw new AppError("conflict", {
      detail: "The project has a live allocation of that name. Choose another name or release it.",
      cause: error,
    });
  }
  throw error;
}

interface Placed {
  readonly asked: Asked;
  readonly wish: AllocationCreate;
  readonly image: ImageRow;
  readonly placement: Placement;
  readonly groupId: string | null;
}

/** Allocation, slots, operation, task, event and audit row of one slice. Resolves with its id. */
async function write(tx: Tx, deps: Pick<Deps, "clock">, placed: Placed): Promise<string> {
  const { asked, wish, placement, groupId } = placed;
  const { projectId } = asked;
  const { nodeId, gpusSimulated } = placement;
  const allocationId = newId("allocation", deps.clock);
  const operationId = newId("operation", deps.clock);
  const { driver, nodeSelector, spreadBy } = wishOf(wish);
  await openOperation(tx, {
    id: operationId,
    kind: "allocation.provision",
    targetId: allocationId,
    projectId,
    phasesTotal: PROVISION_PHASE_NAMES.length,
  });
  const spec = specOf(allocationId, placed);
  const gpus = placement.gpus.map((gpu) => ({ uuid: gpu.uuid, model: gpu.model, kind: gpu.kind }));
  await insertAllocation(tx, {
    id: allocationId,
    projectId,
    driver,
    imageId: placed.image.id,
    operationId,
    nodeId,
    gpus,
    gpusSimulated,
    nodeSelector,
    spreadBy,
    groupId,
    spec,
    ...sizeOf(wish),
  });
  const owned = await ownSlots(tx, { nodeId, uuids: gpus.map((gpu) => gpu.uuid), allocationId });
  if (owned !== gpus.length) throw new Error("a locked free slot was not free");
  await enqueueTask(tx, deps, {
    nodeId,
    kind: "slice.vm_provision",
    params: spec,
    targetId: allocationId,
    operationId,
    expiresInMs: PROVISION_EXPIRES_MS,
  });
  await recordChange(tx, deps.clock, {
    actor: asked.principal.id,
    topic: "allocation.requested",
    targetId: allocationId,
    targetVersion: 1,
    projectId,
    requestId: asked.requestId,
    body: {
      name: wish.name,
      nodeId,
      gpus: gpus.map((gpu) => gpu.uuid),
      operationId,
      ...(groupId === null ? {} : { groupId }),
    },
  });
  return allocationId;
}

function sizeOf(wish: AllocationCreate): Pick<AllocationCreate, "name" | "vcpus" | "memoryMib" | "diskGib" | "labels"> {
  return { name: wish.name, vcpus: wish.vcpus, memoryMib: wish.memoryMib, diskGib: wish.diskGib, labels: wish.labels };
}

function specOf(allocationId: string, { wish, image, placement }: Placed): SliceSpec {
  return {
    allocationId,
    generation: 1,
    driver: wishOf(wish).driver,
    hostName: wish.name,
    vcpus: wish.vcpus,
    memoryMib: wish.memoryMib,
    diskGib: wish.diskGib,
    image: { name: image.name, sha256: image.sha256, sizeBytes: image.sizeBytes, format: image.format },
    gpuUuids: placement.gpus.map((gpu) => gpu.uuid),
    sshPublicKeys: [...wish.sshPublicKeys],
    userData: wish.userData,
    labels: wish.labels,
  };
}
