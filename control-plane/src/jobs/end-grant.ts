import type { JobState, OperationState } from "@hostler/shared/states.ts";
import type { Tx } from "../db/sql.ts";
import { insertAuditRow } from "../audit/store.ts";
import { advanceOperation } from "../operations/operations.ts";
import type { JobSettlement } from "./model.ts";
import { settleJob, type Held } from "./store.ts";

/** What the operation of a job shows once no worker has it. */
const OPERATION_STATES: Readonly<Record<Exclude<JobState, "running">, OperationState>> = {
  ready: "retrying",
  succeeded: "succeeded",
  failed: "failed",
  dead: "failed",
  cancelled: "cancelled",
};

/** Ends a grant of a job, with its operation. Nothing is written when another process has the job by now. */
export async function endGrant(tx: Tx, held: Held, settlement: JobSettlement): Promise<void> {
  const { operationId } = held;
  const state = await settleJob(tx, held, settlement);
  if (state === undefined || state === "running") return;
  const { reason, code, step: phase } = settlement;
  const error = reason === null || state === "cancelled" ? null : { code, message: reason, phase };
  await advanceOperation(tx, operationId, OPERATION_STATES[state], error);
  if (state !== "dead") return;
  await insertAuditRow(tx, {
    actor: "system:jobs",
    action: "job.dead_lettered",
    targetId: operationId,
    targetVersion: null,
    outcome: "succeeded",
    requestId: null,
    detail: { reason, step: phase, crashes: settlement.crashes },
  });
}
