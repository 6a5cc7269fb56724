import { newId } from "@hostler/shared/ids.ts";
import { RELEASE_PHASE_NAMES } from "@hostler/shared/phases.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { openOperations } from "../operations/operations.ts";
import { enqueueTasks } from "../tasks/enqueue-task.ts";
import { moveAllAndRecord } from "./record-allocation.ts";
import { setOperation, type AllocationRow } from "./store.ts";

/** A release must happen, however long the host is away. */
const RELEASE_EXPIRES_MS = 365 * 86_400_000;

export interface BegunRelease {
  readonly allocation: AllocationRow;
  readonly by: { readonly actor: string; readonly requestId: string | null };
}

/** Writes the operation and task that take a slice down, and moves the allocation to `releasing` unless it is there already. */
export async function beginRelease(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  allocation: AllocationRow,
  by: BegunRelease["by"],
): Promise<void> {
  await beginReleases(tx, deps, [{ allocation, by }]);
}

/** The same for several different slices whose rows the caller holds, in one statement of each kind. */
export async function beginReleases(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  releases: readonly BegunRelease[],
): Promise<void> {
  if (releases.length === 0) return;
  const begun = releases.map((release) => ({ ...release, operationId: newId("operation", deps.clock) }));
  await openOperations(
    tx,
    begun.map(({ allocation: { id, projectId }, operationId }) => ({
      id: operationId,
      kind: "allocation.release",
      targetId: id,
      projectId,
      phasesTotal: RELEASE_PHASE_NAMES.length,
    })),
  );
  await enqueueTasks(
    tx,
    deps,
    begun.map(({ allocation: { id, nodeId, generation, driver }, operationId }) => ({
      nodeId,
      kind: "slice.vm_release",
      params: { allocationId: id, generation, driver },
      targetId: id,
      operationId,
      expiresInMs: RELEASE_EXPIRES_MS,
    })),
  );
  const isMoved = ({ allocation }: BegunRelease): boolean => allocation.state !== "releasing";
  for (const { allocation, operationId } of begun.filter((release) => !isMoved(release)))
    await setOperation(tx, allocation.id, operationId);
  const moves = begun.filter(isMoved).map(({ allocation, by, operationId }) => ({
    allocation,
    move: { target: "releasing", reason: null, operationId, ...by } as const,
  }));
  await moveAllAndRecord(tx, deps, moves);
}
