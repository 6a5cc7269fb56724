import type { Operation } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { insertAuditRow } from "../audit/store.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { getOperation } from "../operations/operations.ts";
import { enqueueJob, wakeForJob } from "./enqueue-job.ts";
import type { JobKind } from "./job-kind.ts";
import { lockJob, markRedriven } from "./store.ts";

/**
 * Does a dead or failed job again, as a new operation: the old one has ended, and whoever waited for it knows. Steps that ended
 * are not done again. Answers with the new operation.
 */
export async function redriveJob(
  deps: Pick<Deps, "sql" | "clock" | "wake"> & { readonly kinds: readonly JobKind[] },
  call: { readonly operationId: string; readonly actor: string; readonly requestId: string },
): Promise<Operation> {
  const { operationId, actor, requestId } = call;
  const made = await inTransaction(deps.sql, async (tx) => {
    const job = await lockJob(tx, operationId);
    if (job === undefined) throw new AppError("not_found");
    if (job.state !== "dead" && job.state !== "failed")
      throw new AppError("operation_state_conflict", {
        detail: `The job is ${job.state}; only one that is dead or failed is done again.`,
      });
    if (job.redrivenAs !== null)
      throw new AppError("operation_state_conflict", { detail: `It was redriven already, as ${job.redrivenAs}.` });
    const kind = deps.kinds.find((known) => known.kind === job.kind);
    if (kind === undefined)
      throw new AppError("conflict", { detail: `This version does not know jobs of the kind ${job.kind}.` });
    const { targetId } = await getOperation(tx, operationId);
    const { params, dedupeKey, priority, stepsDone } = job;
    const wish = { params: params as Readonly<Record<string, unknown>>, targetId, priority, stepsDone };
    const enqueued = await enqueueJob(tx, deps, kind, dedupeKey === null ? wish : { ...wish, dedupeKey });
    if (!enqueued.isNew)
      throw new AppError("operation_state_conflict", {
        detail: `The same work is under way, as ${enqueued.operationId}.`,
      });
    await markRedriven(tx, operationId, enqueued.operationId);
    const detail = { redrivenAs: enqueued.operationId };
    const outcome = "succeeded";
    await insertAuditRow(tx, {
      actor,
      action: "job.redriven",
      targetId: operationId,
      targetVersion: null,
      outcome,
      requestId,
      detail,
    });
    return enqueued;
  });
  wakeForJob(deps, made.operationId);
  return await getOperation(deps.sql, made.operationId);
}
