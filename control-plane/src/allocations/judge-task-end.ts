import type { ResultClaims } from "@hostler/shared/tasks.ts";
import type { TaskEnd } from "./apply-task-ends.ts";
import type { AllocationMove } from "./record-allocation.ts";
import type { AllocationRow } from "./store.ts";

/** What the end of a task does to its allocation. */
export interface AllocationEffect {
  /** In order; each is a state of its own with its own event. */
  readonly moves: readonly AllocationMove[];
  /** Its slots and capacity come free, the slots quarantined when there is a reason; null: it keeps what it owns. */
  readonly slots: { readonly quarantineReason: string | null } | null;
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
        : endedRelease(end, by);
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
    const active = { ...by, target: "active", reason: null } as const;
    // A host may be done before it told of any progress.
    if (allocation.state === "requested") return keeps([{ ...by, target: "provisioning", reason: null }, active]);
    return keeps([active]);
  }
  return gone(allocation, { ...by, reason: failure?.message ?? "cancelled" }, quarantineReason(end.result));
}

function abandonedProvision(
  end: Ended & { readonly reason: string },
  allocation: AllocationRow,
  by: By,
): AllocationEffect {
  const isUntouched = end.task.attempt === 0;
  return gone(allocation, { ...by, reason: end.reason }, isUntouched ? null : `release: ${end.reason}`.slice(0, 500));
}

function endedRelease(end: Ended & { readonly result: ResultClaims }, by: By): AllocationEffect {
  const { outcome, failure } = end.result;
  // Its slots stay owned: nobody else gets them until a release proves that they are clean.
  if (outcome !== "succeeded")
    return keeps([{ ...by, target: "release_failed", reason: failure?.message ?? "cancelled" }]);
  const moves = [{ ...by, target: "released", reason: null }] as const;
  return { moves, slots: { quarantineReason: null }, releaseBy: null };
}

function keeps(moves: readonly AllocationMove[]): AllocationEffect {
  return { moves, slots: null, releaseBy: null };
}

function gone(
  allocation: AllocationRow,
  move: Omit<AllocationMove, "target">,
  quarantine: string | null,
): AllocationEffect {
  const target = allocation.state === "releasing" ? "released" : "failed";
  return { moves: [{ ...move, target }], slots: { quarantineReason: quarantine }, releaseBy: null };
}

/** Why the slots may not be handed out again; null when the host is clean. */
export function quarantineReason(result: ResultClaims): string | null {
  const failure = result.failure;
  if (failure === null) return null;
  if (failure.class === "device") return `release: ${failure.message}`.slice(0, 500);
  return failure.leftovers.length > 0
    ? `release: the host could not undo ${failure.leftovers.join(", ")}`.slice(0, 500)
    : null;
}
