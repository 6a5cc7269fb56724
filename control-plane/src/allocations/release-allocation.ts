import type { AllocationGroup, AllocationOperation } from "@hostler/shared/api/allocations.ts";
import { onlyOutcome, outcomeOf, type Outcome } from "@hostler/shared/coalesce.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { makeCoalescer } from "../db/coalesce.ts";
import { nodeTopic, operationTopic } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { requireInProject, type Principal } from "../identity/permissions.ts";
import { advanceOperation } from "../operations/operations.ts";
import { cancelOperationTask, holdTasksAbout } from "../tasks/cancel-operation-task.ts";
import { beginRelease, beginReleases, type BegunRelease } from "./begin-release.ts";
import { freeSlotsOf } from "./free-slots.ts";
import { getAllocationOperations } from "./read-allocation.ts";
import { moveAllAndRecord } from "./record-allocation.ts";
import {
  CLEAN_SLOTS,
  giveCapacityBack,
  isDrainDue,
  listGroup,
  lockAllocation,
  lockAllocations,
  type AllocationRow,
} from "./store.ts";

export interface ReleaseRequest {
  readonly principal: Principal;
  readonly allocationId: string;
  readonly requestId: string;
}

/** So many together, so that a batch stays short. */
const BATCH_MAX = 64;

type ReleaseDeps = Pick<Deps, "sql" | "clock" | "wake">;

/**
 * Gives slices back. An active one gets a release task; one that is being built is cancelled, and the host undoes it; one that no
 * host has begun is gone at once. Asking again answers with the operation in progress. What is asked for at the same time goes
 * to the database together.
 */
export function makeReleases(deps: ReleaseDeps): (request: ReleaseRequest) => Promise<AllocationOperation> {
  return makeCoalescer({ batchMax: BATCH_MAX, run: async (requests) => await releaseTogether(deps, requests) });
}

export async function releaseAllocation(deps: ReleaseDeps, request: ReleaseRequest): Promise<AllocationOperation> {
  return onlyOutcome(await releaseTogether(deps, [request]));
}

/** Gives the slices of a gang back as `release` does each. Asking again is fine; those that have ended stay as they are. */
export async function releaseGroup(
  deps: Pick<Deps, "sql"> & { readonly release: ReturnType<typeof makeReleases> },
  request: { readonly principal: Principal; readonly groupId: string; readonly requestId: string },
): Promise<AllocationGroup> {
  const { principal, groupId, requestId } = request;
  const members = await listGroup(deps.sql, groupId);
  if (members.length === 0) throw new AppError("not_found");
  for (const { projectId } of members) requireInProject(principal, "compute.allocation.release", projectId);
  const allocations = await Promise.all(
    members.map(async ({ id: allocationId }) => await deps.release({ principal, allocationId, requestId })),
  );
  return { id: groupId, allocations };
}

async function releaseTogether(
  deps: ReleaseDeps,
  requests: readonly ReleaseRequest[],
): Promise<Outcome<AllocationOperation>[]> {
  const ids = [...new Set(requests.map(({ allocationId }) => allocationId))].toSorted();
  const rows = await inTransaction(deps.sql, async (tx) => {
    await holdTasksAbout(tx, ids);
    const held = new Map((await lockAllocations(tx, ids)).map((allocation) => [allocation.id, allocation]));
    const begun = new Map<string, BegunRelease>();
    for (const request of requests) {
      const allocation = held.get(request.allocationId);
      const isGivenBack = allocation?.state === "active" || allocation?.state === "release_failed";
      if (!isGivenBack || begun.has(allocation.id) || refusalOf(request, allocation) !== null) continue;
      begun.set(allocation.id, { allocation, by: { actor: request.principal.id, requestId: request.requestId } });
    }
    await beginReleases(tx, deps, [...begun.values()]);
    return held;
  });
  wakeAbout(deps, [...rows.values()]);
  const answered = await Promise.all(
    requests.map(async (request) => await outcomeOf(async () => await finish(deps, request, rows))),
  );
  const views = new Map((await getAllocationOperations(deps.sql, ids)).map((view) => [view.allocation.id, view]));
  return answered.map((outcome, index) => {
    const view = views.get(requests[index]?.allocationId ?? "");
    if ("error" in outcome) return outcome;
    return view === undefined ? { error: new AppError("not_found") } : { value: view };
  });
}

function refusalOf(request: ReleaseRequest, allocation: AllocationRow | undefined): unknown {
  if (allocation === undefined) return new AppError("not_found");
  try {
    requireInProject(request.principal, "compute.allocation.release", allocation.projectId);
    return null;
  } catch (error) {
    return error;
  }
}

/** Throws why the request is refused. What is being built is cancelled in a transaction of its own: it may give capacity back. */
async function finish(
  deps: ReleaseDeps,
  request: ReleaseRequest,
  rows: ReadonlyMap<string, AllocationRow>,
): Promise<void> {
  const refusal = refusalOf(request, rows.get(request.allocationId));
  if (refusal !== null) throw refusal;
  const { state } = rows.get(request.allocationId) ?? {};
  if (state !== "requested" && state !== "provisioning") return;
  const by = { actor: request.principal.id, requestId: request.requestId };
  const touched = await inTransaction(deps.sql, async (tx) => {
    await holdTasksAbout(tx, [request.allocationId]);
    const allocation = await lockAllocation(tx, request.allocationId);
    if (allocation !== undefined) await release(tx, deps, allocation, by);
    return allocation;
  });
  if (touched !== undefined) wakeAbout(deps, [touched]);
}

function wakeAbout(deps: Pick<Deps, "wake">, allocations: readonly AllocationRow[]): void {
  for (const nodeId of new Set(allocations.map((allocation) => allocation.nodeId))) deps.wake.wake(nodeTopic(nodeId));
  for (const { operationId } of allocations) deps.wake.wake(operationTopic(operationId));
}

/**
 * Stops the building of a slice, while that operation builds it: a slice that has become active meanwhile is not given back.
 * Asking again is fine.
 */
export async function cancelProvision(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  request: ReleaseRequest & { readonly operationId: string },
): Promise<void> {
  const { operationId } = request;
  const touched = await inTransaction(deps.sql, async (tx) => {
    await holdTasksAbout(tx, [request.allocationId]);
    const allocation = await lockAllocation(tx, request.allocationId);
    if (allocation === undefined) throw new AppError("not_found");
    requireInProject(request.principal, "compute.allocation.release", allocation.projectId);
    if (allocation.operationId === operationId && allocation.state === "releasing") return allocation;
    const isBuilding = allocation.state === "requested" || allocation.state === "provisioning";
    if (!isBuilding || allocation.operationId !== operationId)
      throw new AppError("operation_state_conflict", {
        detail: `The slice is ${allocation.state} by now; release it instead.`,
      });
    await cancelProvisioning(tx, deps, allocation, { actor: request.principal.id, requestId: request.requestId });
    return allocation;
  });
  deps.wake.wake(nodeTopic(touched.nodeId));
  deps.wake.wake(operationTopic(operationId));
}

/**
 * Gives a slice back because its host is emptied, unless that was called off or somebody gives it back already. May run twice.
 */
export async function releaseForDrain(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  drain: { readonly allocationId: string; readonly actor: string },
): Promise<void> {
  const touched = await inTransaction(deps.sql, async (tx) => {
    await holdTasksAbout(tx, [drain.allocationId]);
    const allocation = await lockAllocation(tx, drain.allocationId);
    if (allocation === undefined || allocation.state === "release_failed") return null;
    if (!(await isDrainDue(tx, allocation.nodeId))) return null;
    await release(tx, deps, allocation, { actor: drain.actor, requestId: null });
    return allocation;
  });
  if (touched === null) return;
  deps.wake.wake(nodeTopic(touched.nodeId));
  deps.wake.wake(operationTopic(touched.operationId));
}

interface By {
  readonly actor: string;
  readonly requestId: string | null;
}

async function release(tx: Tx, deps: Pick<Deps, "clock">, allocation: AllocationRow, by: By): Promise<void> {
  if (allocation.state === "active" || allocation.state === "release_failed")
    await beginRelease(tx, deps, allocation, by);
  else if (allocation.state === "requested" || allocation.state === "provisioning")
    await cancelProvisioning(tx, deps, allocation, by);
}

async function cancelProvisioning(tx: Tx, deps: Pick<Deps, "clock">, allocation: AllocationRow, by: By): Promise<void> {
  const move = {
    reason: "released before it was active",
    operationId: allocation.operationId,
    ...by,
  };
  const releasing = { allocation, move: { ...move, target: "releasing" } } as const;
  const cancelled = await cancelOperationTask(tx, allocation.operationId);
  if (cancelled !== "never held") return await moveAllAndRecord(tx, deps, [releasing]);
  // No host ever held the task, so there is nothing to undo.
  await advanceOperation(tx, allocation.operationId, "cancelled");
  await freeSlotsOf(tx, [{ ...allocation, ...CLEAN_SLOTS }]);
  await giveCapacityBack(tx, [allocation]);
  await moveAllAndRecord(tx, deps, [releasing, { allocation, move: { ...move, target: "released" } }]);
}
