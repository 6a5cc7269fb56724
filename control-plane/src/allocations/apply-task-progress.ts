import type { PhaseEvent } from "@hostler/shared/tasks.ts";
import { PROVISION_PHASE_NAMES, RELEASE_PHASE_NAMES } from "@hostler/shared/phases.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { noteOperationsProgress, type OperationStep } from "../operations/operations.ts";
import type { TaskRow } from "../tasks/task-row.ts";
import { moveAllAndRecord } from "./record-allocation.ts";
import { lockRequestedAllocations } from "./store.ts";

export interface AppliedProgress {
  readonly task: TaskRow;
  readonly events: readonly PhaseEvent[];
  readonly requestId: string;
}

const PHASES_OF: Readonly<Record<string, readonly string[]>> = {
  "slice.vm_provision": PROVISION_PHASE_NAMES,
  "slice.vm_repair": PROVISION_PHASE_NAMES,
  "slice.vm_release": RELEASE_PHASE_NAMES,
  "slice.remove": RELEASE_PHASE_NAMES,
};

/** What signs of work on hosts do to operations and their allocations: the first makes them run, later ones count phases. */
export async function applyTaskProgress(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  reports: readonly AppliedProgress[],
): Promise<void> {
  const about = reports.filter(({ task }) => task.operationId !== null);
  if (about.length === 0) return;
  await noteOperationsProgress(tx, about.map(stepOf));
  const provisions = new Map(
    about.filter(({ task }) => task.kind === "slice.vm_provision").map((report) => [report.task.targetId, report]),
  );
  if (provisions.size === 0) return;
  const begun = await lockRequestedAllocations(tx, [...provisions.keys()]);
  const moves = begun.flatMap((allocation) => {
    const report = provisions.get(allocation.id);
    if (report === undefined) return [];
    const { task, requestId } = report;
    const operationId = task.operationId ?? allocation.operationId;
    const actor = `node:${task.nodeId}`;
    return [{ allocation, move: { target: "provisioning", reason: null, operationId, actor, requestId } as const }];
  });
  await moveAllAndRecord(tx, deps, moves);
}

/** Where the operation of a task stands by what its host told. What is undone takes nothing back. */
export function stepOf({ task, events }: Pick<AppliedProgress, "task" | "events">): OperationStep {
  const names = PHASES_OF[task.kind] ?? [];
  const done = events
    .filter(({ direction, status }) => direction === "apply" && (status === "done" || status === "not_needed"))
    .map(({ phase }) => names.indexOf(phase) + 1);
  return { id: task.operationId ?? "", phase: events.at(-1)?.phase ?? null, phasesDone: Math.max(0, ...done) };
}
