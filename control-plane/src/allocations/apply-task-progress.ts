import type { PhaseEvent } from "@hostler/shared/tasks.ts";
import { PROVISION_PHASE_NAMES, RELEASE_PHASE_NAMES } from "@hostler/shared/phases.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { noteOperationsProgress } from "../operations/operations.ts";
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
  await noteOperationsProgress(
    tx,
    about.map(({ task, events }) => ({
      id: task.operationId ?? "",
      phase: events.at(-1)?.phase ?? null,
      phasesDone: phasesDone(PHASES_OF[task.kind] ?? [], events),
    })),
  );
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

/** How far along the list of phases the newest finished one stands; what is undone takes nothing back. */
function phasesDone(names: readonly string[], events: readonly PhaseEvent[]): number {
  const done = events
    .filter(({ direction, status }) => direction === "apply" && (status === "done" || status === "not_needed"))
    .map(({ phase }) => names.indexOf(phase) + 1);
  return Math.max(0, ...done);
}
