import type { Operation } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { isFinal, OPERATION_TRANSITIONS } from "@hostler/shared/states.ts";
import { cancelProvision } from "../allocations/release-allocation.ts";
import { insertAuditRow } from "../audit/store.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { mayDo, type Principal } from "../identity/permissions.ts";
import { cancelJob } from "../jobs/cancel-job.ts";
import { wakeForJob } from "../jobs/enqueue-job.ts";
import { getOperation } from "./operations.ts";
import { requireReadable } from "./require-readable.ts";

/**
 * Cancels long work. What waits is cancelled now; what runs is told to stop and shows `cancelled` when it has. Asking again is
 * fine. What has ended, or cannot stop half way, is refused with `operation_state_conflict`.
 */
export async function cancelOperation(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  call: { readonly principal: Principal; readonly operationId: string; readonly requestId: string },
): Promise<Operation> {
  const { principal, operationId, requestId } = call;
  const operation = await getOperation(deps.sql, operationId);
  requireReadable(principal, operation);
  const { projectId } = operation;
  const permission = projectId === null ? "platform.operation.manage" : "compute.allocation.release";
  if (!mayDo(principal, permission, projectId))
    throw new AppError("permission_denied", { detail: `This needs the permission ${permission}.` });
  if (operation.state === "cancelled") return operation;
  if (isFinal(OPERATION_TRANSITIONS, operation.state)) throw ended(operation);
  if (operation.scope !== null) await cancelOwnWork(deps, operation, { actor: principal.id, requestId });
  else if (operation.kind === "allocation.provision")
    await cancelProvision(deps, { principal, allocationId: operation.targetId, operationId, requestId });
  else
    throw new AppError("operation_state_conflict", {
      detail: "Giving a slice back cannot be cancelled: what has been taken down of it does not come back.",
    });
  return await getOperation(deps.sql, operationId);
}

async function cancelOwnWork(
  deps: Pick<Deps, "sql" | "wake">,
  operation: Operation,
  by: { readonly actor: string; readonly requestId: string },
): Promise<void> {
  await inTransaction(deps.sql, async (tx) => {
    if (!(await cancelJob(tx, operation.id))) throw ended(await getOperation(tx, operation.id));
    await insertAuditRow(tx, {
      ...by,
      action: "job.cancel_requested",
      targetId: operation.id,
      targetVersion: null,
      outcome: "succeeded",
      detail: { kind: operation.kind, scope: operation.scope },
    });
  });
  wakeForJob(deps, operation.id);
}

function ended({ state }: Operation): AppError {
  return new AppError("operation_state_conflict", { detail: `The operation has ended: it is ${state}.` });
}
