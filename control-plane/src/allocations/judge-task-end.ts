import { receiptGaps } from "@hostler/shared/receipts.ts";
import type { ResultClaims } from "@hostler/shared/tasks.ts";
import type { TaskEnd } from "./apply-task-ends.ts";
import { hadRoot, slotsAfterRoot } from "./after-root.ts";
import { hostedBy } from "./ports.ts";
import type { AllocationMove } from "./record-allocation.ts";
import type { AllocationRow, ReturnedSlots } from "./store.ts";

/** What the end of a task does to its allocation. */
export interface AllocationEffect {
  /** In order; each is a state of its own with its own event. */
  readonly moves: readonly AllocationMove[];
  /** Its slots and capacity come free; null: it keeps what it owns. */
  readonly slots: ReturnedSlots | null;
  /** Goes down again at once: the tenant gave it back while the host finished it. */
  readonly releaseBy: { readonly actor: string; readonly requestId: string | null } | null;
}

type Ended = Exclude<TaskEnd, { kind: "retry" }>;

/** Pure: what the end of a provision or release task means for the allocation as it is now. */
export function judgeTaskEnd(end: Ended, allocation: AllocationRow): AllocationEffect {
  const { task } = end;
  const by = {
    operationId: task.operationId ?? allocation.operationId,
    actor: end.kind === "abandoned" ? "system:tasks" : `node:${task.nodeId}`,
    requestId: end.requestId,
  };
  switch (task.kind) {
    case "slice.vm_provision":
      return end.kind === "abandoned" ? abandonedProvision(end, allocation, by) : endedProvision(end, allocation, by);
    case "slice.vm_release":
      return end.kind === "abandoned"
        ? keeps([{ ...by, target: "release_failed", reason: end.reason }])
        : endedRelease(end, allocation, by);
    // A repair changes no state, and what was not removed is seen again in the next list of its host.
    case "slice.vm_repair":
    case "slice.remove":
    case "terminal.open":
      return keeps([]);
  }
}

type By = Omit<AllocationMove, "target" | "reason">;

function endedProvision(
  end: Ended & { readonly result: ResultClaims },
  allocation: AllocationRow,
  by: By,
): AllocationEffect {
  const { outcome, failure } = end.result;
  if (outcome === "succeeded") {
    if (allocation.state === "releasing") return { moves: [], slots: null, releaseBy: by };
    const ports = hostedBy(allocation.ports, end.result.facts);
    const active = { ...by, target: "active", reason: null, ports } as const;
    // A host may be done before it told of any progress.
    if (allocation.state === "requested") return keeps([{ ...by, target: "provisioning", reason: null }, active]);
    return keeps([active]);
  }
  return gone(allocation, { ...by, reason: failure?.message ?? "cancelled" }, returnedSlots(end.result, allocation));
}

function abandonedProvision(
  end: Ended & { readonly reason: string },
  allocation: AllocationRow,
  by: By,
): AllocationEffect {
  const isUntouched = end.task.attempt === 0;
  const quarantineReason = isUntouched ? null : `release: ${end.reason}`.slice(0, 500);
  return gone(allocation, { ...by, reason: end.reason }, { quarantineReason, gaps: {} });
}

function endedRelease(
  end: Ended & { readonly result: ResultClaims },
  allocation: AllocationRow,
  by: By,
): AllocationEffect {
  const { outcome, failure } = end.result;
  // Its slots stay owned: nobody else gets them until a release proves that they are clean.
  if (outcome !== "succeeded")
    return keeps([{ ...by, target: "release_failed", reason: failure?.message ?? "cancelled" }]);
  const moves = [{ ...by, target: "released", reason: null }] as const;
  const slots = returnedSlots(end.result, allocation);
  return { moves, slots: hadRoot(end, allocation) ? slotsAfterRoot(slots) : slots, releaseBy: null };
}

function keeps(moves: readonly AllocationMove[]): AllocationEffect {
  return { moves, slots: null, releaseBy: null };
}

function gone(allocation: AllocationRow, move: Omit<AllocationMove, "target">, slots: ReturnedSlots): AllocationEffect {
  const target = allocation.state === "releasing" ? "released" : "failed";
  return { moves: [{ ...move, target }], slots, releaseBy: null };
}

/** Whose slots may be handed out again, by what the host says it did and by its receipt for each GPU. */
export function returnedSlots(result: ResultClaims, allocation: Pick<AllocationRow, "gpus">): ReturnedSlots {
  const gaps = receiptGaps(
    result.facts,
    allocation.gpus.map((gpu) => gpu.uuid),
  );
  return {
    quarantineReason: quarantineReason(result),
    gaps: Object.fromEntries(Object.entries(gaps).map(([uuid, gap]) => [uuid, `release: ${gap}`.slice(0, 500)])),
  };
}

function quarantineReason(result: ResultClaims): string | null {
  const failure = result.failure;
  if (failure === null) return null;
  if (failure.class === "device") return `release: ${failure.message}`.slice(0, 500);
  return failure.leftovers.length > 0
    ? `release: the host could not undo ${failure.leftovers.join(", ")}`.slice(0, 500)
    : null;
}
