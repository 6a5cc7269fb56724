import { AppError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { Tx } from "../db/sql.ts";
import { JOBS_TOPIC, operationTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { openOperation } from "../operations/operations.ts";
import type { JobKind } from "./job-kind.ts";
import { findLiveJob, insertJob } from "./store.ts";

export interface JobWish {
  /** Never a secret: operators see them. */
  readonly params?: Readonly<Record<string, unknown>>;
  /** What it is about; its scope unless given. */
  readonly targetId?: string;
  /** While a job with the same key waits or runs, there is no second one. */
  readonly dedupeKey?: string;
  /** Higher goes first; 0 unless given. */
  readonly priority?: number;
  readonly delayMs?: number;
  /** Steps that are not to be done again. */
  readonly stepsDone?: readonly string[];
}

export interface Enqueued {
  readonly operationId: string;
  /** False when it is the job that was there already. */
  readonly isNew: boolean;
}

/** Times that a job with the same key may end between our look and our write, before we give up. */
const TRIES_MAX = 5;

/** Writes the job and its operation with the change that asks for it. After the commit the caller calls `wakeForJob`. */
export async function enqueueJob(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  kind: JobKind,
  wish: JobWish = {},
): Promise<Enqueued> {
  const operationId = newId("operation", deps.clock);
  const { dedupeKey = null } = wish;
  const job = {
    operationId,
    kind: kind.kind,
    params: wish.params ?? {},
    dedupeKey,
    priority: wish.priority ?? 0,
    delayMs: wish.delayMs ?? 0,
    stepsDone: wish.stepsDone ?? [],
  };
  for (let attempt = 1; !(await insertJob(tx, job)); attempt += 1) {
    const live = dedupeKey === null ? undefined : await findLiveJob(tx, dedupeKey);
    if (live !== undefined) return { operationId: live, isNew: false };
    if (attempt === TRIES_MAX)
      throw new AppError("service_unavailable", { detail: "The same work ends all the time." });
  }
  await openOperation(tx, {
    id: operationId,
    kind: kind.kind,
    targetId: wish.targetId ?? kind.scope,
    projectId: null,
    scope: kind.scope,
    phasesTotal: kind.steps.length,
  });
  return { operationId, isNew: true };
}

/** After the commit, never inside: runners look for work, and whoever watches the operation looks again. */
export function wakeForJob(deps: Pick<Deps, "wake">, operationId: string): void {
  deps.wake.wake(JOBS_TOPIC);
  deps.wake.wake(operationTopic(operationId));
}
