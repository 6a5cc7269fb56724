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
import { recordChanges, type Change } from "../audit/record-change.ts";
import { isUniqueViolation } from "../db/pool.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import type { Once } from "../http/idempotency.ts";
import { requireInProject, type Principal } from "../identity/permissions.ts";
import { requireImage, type ImageRow } from "../images/require-image.ts";
import { openOperations } from "../operations/operations.ts";
import { enqueueTasks } from "../tasks/enqueue-task.ts";
import type { HandOver } from "../tasks/hand-over.ts";
import { PROVISION_EXPIRES_MS, slotsOf } from "./own-placement.ts";
import { place, type Placement } from "./placement.ts";
import { networkOf, unhosted } from "./ports.ts";
import { demandOf, requireQuota, takenBy } from "./quota.ts";
import { getAllocationOperations } from "./read-allocation.ts";
import { insertAllocations, ownSlots, type NewAllocation } from "./store.ts";
import { wishOf } from "./wish-of.ts";

interface Asked {
  readonly principal: Principal;
  readonly projectId: string;
  readonly requestId: string;
  /** Answers a repeated request with what the first one made. */
  readonly once: Once;
}

export interface CreateDeps extends Pick<Deps, "clock" | "wake"> {
  readonly handOver: Pick<HandOver, "inTransaction">;
}

/** Places a slice and writes everything about it in one transaction, which grants its task to the node's poll or wakes the node. */
export async function createAllocation(
  deps: CreateDeps,
  request: Asked & { readonly wish: AllocationCreate },
): Promise<AllocationOperation> {
  const { wish, ...asked } = request;
  const gang = { wishes: [wish], groupId: null };
  return await createTogether(deps, asked, gang, (made) => made[0] ?? raiseNone());
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
  return await createTogether(deps, asked, { wishes, groupId }, (allocations) => ({ id: groupId, allocations }));
}

interface Gang {
  /** Alike but for their names. */
  readonly wishes: readonly AllocationCreate[];
  readonly groupId: string | null;
}

/** One transaction with the answer in it, so that whoever asks again after a lost answer hears what was made. */
async function createTogether<Answer>(
  deps: CreateDeps,
  asked: Asked,
  gang: Gang,
  answerWith: (made: AllocationOperation[]) => Answer,
): Promise<Answer> {
  requireInProject(asked.principal, "compute.allocation.create", asked.projectId);
  const nodeIds = new Set<string>();
  const answer = await deps.handOver
    .inTransaction(async (tx, grant) => {
      const answered = await asked.once.run(tx, async () => {
        const written = await writeTogether(tx, deps, asked, gang);
        for (const { nodeId } of written) nodeIds.add(nodeId);
        return answerWith(
          await getAllocationOperations(
            tx,
            written.map(({ id }) => id),
          ),
        );
      });
      // A gang holds several nodes, and nobody waits for one of its slices.
      if (gang.wishes.length > 1) return answered;
      for (const nodeId of nodeIds) if (await grant(nodeId)) nodeIds.delete(nodeId);
      return answered;
    })
    .catch(refuseTakenName);
  for (const nodeId of nodeIds) deps.wake.wake(nodeTopic(nodeId));
  return answer;
}

async function writeTogether(
  tx: Tx,
  deps: CreateDeps,
  asked: Asked,
  gang: Gang,
): Promise<{ readonly id: string; readonly nodeId: string }[]> {
  const [first] = gang.wishes;
  if (first === undefined) throw new Error("a gang has at least one slice");
  const image = await requireImage(tx, first.image);
  const { projectId } = asked;
  const wish = wishOf(first);
  const count = gang.wishes.length;
  await requireQuota(tx, projectId, demandOf(wish, count));
  const placements = await place(tx, { projectId, wish, count });
  // Whole hosts are what they are: only now it is known how much that is.
  if (wish.driver === "host") await requireQuota(tx, projectId, takenBy(placements));
  const slices = gang.wishes.map((one, index): Placed => {
    const placement = placements[index];
    if (placement === undefined) throw new Error("fewer places than slices");
    const allocationId = newId("allocation", deps.clock);
    const operationId = newId("operation", deps.clock);
    return { asked, wish: one, image, placement, groupId: gang.groupId, allocationId, operationId };
  });
  await writeAll(tx, deps, slices);
  return slices.map(({ allocationId, placement }) => ({ id: allocationId, nodeId: placement.nodeId }));
}

function raiseNone(): never {
  throw new Error("nothing was made");
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
  readonly allocationId: string;
  readonly operationId: string;
}

/** Allocations, slots, operations, tasks, events and audit rows: one statement for each kind, however large the gang. */
async function writeAll(tx: Tx, deps: Pick<Deps, "clock">, slices: readonly Placed[]): Promise<void> {
  const operations = slices.map(({ asked, allocationId, operationId }) => ({
    id: operationId,
    kind: "allocation.provision" as const,
    targetId: allocationId,
    projectId: asked.projectId,
    phasesTotal: PROVISION_PHASE_NAMES.length,
  }));
  const slots = slices.map(({ allocationId, placement: { nodeId, gpus } }) => ({
    nodeId,
    uuids: gpus.map((gpu) => gpu.uuid),
    allocationId,
  }));
  const tasks = slices.map((slice) => ({
    nodeId: slice.placement.nodeId,
    kind: "slice.vm_provision" as const,
    params: specOf(slice),
    targetId: slice.allocationId,
    operationId: slice.operationId,
    expiresInMs: PROVISION_EXPIRES_MS,
  }));
  // Sent at once and done one after the other: the nodes are held until all is written.
  await Promise.all([
    openOperations(tx, operations),
    insertAllocations(tx, slices.map(allocationOf)),
    ownSlots(tx, slots),
    enqueueTasks(tx, deps, tasks),
    recordChanges(tx, deps.clock, slices.map(changeOf)),
  ]);
}

function allocationOf(placed: Placed): NewAllocation {
  const { asked, wish, image, placement, groupId, allocationId, operationId } = placed;
  const { driver, nodeSelector, spreadBy } = wishOf(wish);
  return {
    id: allocationId,
    projectId: asked.projectId,
    driver,
    imageId: image.id,
    operationId,
    nodeId: placement.nodeId,
    gpus: slotsOf(placement),
    gpusSimulated: placement.gpusSimulated,
    nodeSelector,
    spreadBy,
    groupId,
    spec: specOf(placed),
    ports: unhosted(wish.ports),
    bandwidthMbitPerSecond: wish.bandwidthMbitPerSecond,
    ...sizeOf(placed),
  };
}

function changeOf({ asked, wish, placement, groupId, allocationId, operationId }: Placed): Change {
  return {
    actor: asked.principal.id,
    topic: "allocation.requested",
    targetId: allocationId,
    targetVersion: 1,
    projectId: asked.projectId,
    requestId: asked.requestId,
    body: {
      name: wish.name,
      nodeId: placement.nodeId,
      gpus: placement.gpus.map((gpu) => gpu.uuid),
      operationId,
      ...(groupId === null ? {} : { groupId }),
    },
  };
}

function sizeOf({
  wish,
  placement: { vcpus, memoryMib },
}: Placed): Pick<AllocationCreate, "name" | "vcpus" | "memoryMib" | "diskGib" | "labels"> {
  return { name: wish.name, vcpus, memoryMib, diskGib: wish.diskGib, labels: wish.labels };
}

function specOf({ allocationId, wish, image, placement }: Placed): SliceSpec {
  return {
    allocationId,
    generation: 1,
    driver: wishOf(wish).driver,
    hostName: wish.name,
    vcpus: placement.vcpus,
    memoryMib: placement.memoryMib,
    diskGib: wish.diskGib,
    image: { name: image.name, sha256: image.sha256, sizeBytes: image.sizeBytes, format: image.format },
    gpuUuids: placement.gpus.map((gpu) => gpu.uuid),
    sshPublicKeys: [...wish.sshPublicKeys],
    userData: wish.userData,
    labels: wish.labels,
    ...networkOf(wish),
  };
}
