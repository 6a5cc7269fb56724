import type { PhaseEvent, ResultClaims } from "@hostler/shared/tasks.ts";
import { advanceOperations, type OperationMove } from "../operations/operations.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import type { TaskRow } from "../tasks/task-row.ts";
import { stepOf } from "./apply-task-progress.ts";
import { quarantineAfterRoot } from "./after-root.ts";
import { beginRelease } from "./begin-release.ts";
import { judgeTaskEnd, type AllocationEffect } from "./judge-task-end.ts";
import { placeAgain } from "./place-again.ts";
import { endRepair } from "./repair-allocation.ts";
import { moveAllAndRecord } from "./record-allocation.ts";
import { freeSlotsOf } from "./free-slots.ts";
import { hostedBy } from "./ports.ts";
import { giveCapacityBack, lockAllocations, setPorts, type AllocationRow } from "./store.ts";

/** What became of a task. */
export type TaskEnd = {
  readonly task: TaskRow;
  /** What its host told together with it. */
  readonly events: readonly PhaseEvent[];
  readonly requestId: string | null;
} & (
  | { readonly kind: "ended" | "place_again"; readonly result: ResultClaims }
  /** It goes back to its node for another attempt. */
  | { readonly kind: "retry" }
  /**
   * It ended although no host said so: it was never picked up, or never finished. What a host may still hold of the slice is
   * unknown, so its GPUs are quarantined unless no host ever began.
   */
  | { readonly kind: "abandoned"; readonly reason: string }
);

/**
 * What the ends of tasks mean for their operations and allocations, in the transaction that ends the tasks. Resolves with the nodes
 * that got something new to do. Rows are held in one order everywhere: tasks, operations, allocations, slots, nodes.
 */
export async function applyTaskEnds(tx: Tx, deps: Pick<Deps, "clock">, ends: readonly TaskEnd[]): Promise<Set<string>> {
  const nodeIds = new Set<string>();
  const about = ends.filter(({ task }) => task.operationId !== null);
  if (about.length === 0) return nodeIds;
  const rows = await lockAllocations(
    tx,
    about.map(({ task }) => task.targetId),
  );
  const allocations = new Map(rows.map((row) => [row.id, row]));
  const effects: (AllocationEffect & { readonly allocation: AllocationRow })[] = [];
  const operations: OperationMove[] = [];
  const ended: { readonly end: TaskEnd; readonly allocation: AllocationRow }[] = [];
  for (const end of about) {
    const allocation = allocations.get(end.task.targetId);
    const placed = end.kind === "place_again" && allocation?.state !== "releasing" ? allocation : undefined;
    if (placed !== undefined && end.kind === "place_again" && (await placeAgain(tx, deps, placed, end))) {
      operations.push({ ...stepOf(end), target: "retrying", error: null });
      ended.push({ end, allocation: placed });
      const [moved] = await lockAllocations(tx, [placed.id]);
      if (moved !== undefined) nodeIds.add(moved.nodeId);
      continue;
    }
    operations.push(operationMoveOf(end));
    if (allocation === undefined || end.kind === "retry") continue;
    effects.push({ allocation, ...judgeTaskEnd(end, allocation) });
    ended.push({ end, allocation });
  }
  await advanceOperations(tx, operations);
  await applyEffects(tx, deps, effects, nodeIds);
  await quarantineAfterRoot(tx, deps, ended);
  await endRepairs(tx, deps, about, allocations);
  return nodeIds;
}

async function applyEffects(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  effects: readonly (AllocationEffect & { readonly allocation: AllocationRow })[],
  nodeIds: Set<string>,
): Promise<void> {
  const freed = effects.flatMap(({ allocation: { id, nodeId, gpus }, slots }) =>
    slots === null ? [] : [{ id, nodeId, gpus, ...slots }],
  );
  if (freed.length > 0) await freeSlotsOf(tx, freed);
  const given = effects.filter(({ slots }) => slots !== null).map(({ allocation }) => allocation);
  if (given.length > 0) await giveCapacityBack(tx, given);
  await moveAllAndRecord(
    tx,
    deps,
    effects.flatMap(({ allocation, moves }) => moves.map((move) => ({ allocation, move }))),
  );
  for (const { allocation, releaseBy } of effects) {
    if (releaseBy === null) continue;
    await beginRelease(tx, deps, allocation, releaseBy);
    nodeIds.add(allocation.nodeId);
  }
}

async function endRepairs(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  ends: readonly TaskEnd[],
  allocations: ReadonlyMap<string, AllocationRow>,
): Promise<void> {
  for (const end of ends) {
    const { task } = end;
    const allocation = allocations.get(task.targetId);
    if (task.kind !== "slice.vm_repair" || end.kind === "retry" || allocation === undefined) continue;
    const outcome = end.kind === "abandoned" ? "failed" : end.result.outcome;
    await endRepair(tx, deps, { task, allocation, outcome });
    // A host that had lost its books may have chosen other ports.
    if (end.kind !== "abandoned" && outcome === "succeeded" && allocation.ports.length > 0)
      await setPorts(tx, allocation.id, hostedBy(allocation.ports, end.result.facts));
  }
}

function operationMoveOf(end: TaskEnd): OperationMove {
  const step = stepOf(end);
  if (end.kind === "retry") return { ...step, target: "retrying", error: null };
  if (end.kind === "abandoned")
    return { ...step, target: "failed", error: { code: "lease_lost", message: end.reason, phase: end.task.phase } };
  const { outcome, failure } = end.result;
  if (outcome !== "failed" || failure === null) return { ...step, target: outcome, error: null };
  return { ...step, target: "failed", error: { code: failure.code, message: failure.message, phase: failure.phase } };
}
