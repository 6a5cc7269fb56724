import type { KeyObject } from "node:crypto";
import type { Outcome } from "@hostler/shared/coalesce.ts";
import { makeCoalescer } from "../db/coalesce.ts";
import type { Sql } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { completeTasks, verifyCompletion, type TaskCompletion, type VerifiedCompletion } from "./complete-task.ts";
import { grantClaims, putBackGrants, tellGrants, type Claim, type GrantDeps, type Granted } from "./grant-claims.ts";
import { progressTasks, type ProgressTaken, type TaskProgress } from "./progress-task.ts";

export interface DispatchDeps extends GrantDeps, Pick<Deps, "sql" | "wake"> {
  readonly random: () => number;
  /** For grants, whose statements somebody waits for; without it they take their turn in `sql`. */
  readonly wakeSql?: Sql;
}

/**
 * What nodes do with tasks, on this replica. What many ask for at the same time goes to the database together, in one statement or
 * one transaction: that is where the throughput comes from. Each answer is its own.
 */
export interface Dispatch {
  /** Takes waiting tasks of the node and signs a grant for each. */
  take(claim: Claim): Promise<Granted>;
  /** Rejects with `lease_stale` when another grant owns the task. */
  report(progress: TaskProgress): Promise<ProgressTaken>;
  /** Rejects with `result_invalid` or `lease_stale`. `key`: the public key of the connection that brought it. */
  complete(completion: TaskCompletion, key: KeyObject | null): Promise<void>;
}

/** The more wait, the more go together; so many at most, so that one batch stays short. */
const BATCH_MAX = 64;
const UNSIGNED_PAUSE_MS = 1000;

export function makeDispatch(deps: DispatchDeps): Dispatch {
  const take = makeCoalescer<Claim, Granted>({
    batchMax: BATCH_MAX,
    run: async (claims) => await grantAll(deps, claims),
  });
  const report = makeCoalescer<TaskProgress, ProgressTaken>({
    batchMax: BATCH_MAX,
    run: async (reports) => await progressTasks(deps, reports),
  });
  const complete = makeCoalescer<VerifiedCompletion, null>({
    batchMax: BATCH_MAX,
    run: async (completions) => await completeTasks(deps, completions),
  });
  return {
    take,
    report,
    complete: async (completion, key) => void (await complete(await verifyCompletion(deps, completion, key))),
  };
}

/**
 * Not one transaction: a crash in between leaves a lease without a grant, which nobody holds and which ends by its time; and a
 * transaction would cost every wake-up two round trips more. A node that asks twice at the same time gets what there is once.
 */
async function grantAll(deps: DispatchDeps, claims: readonly Claim[]): Promise<Outcome<Granted>[]> {
  const first = new Map<string, Claim>();
  for (const claim of claims) if (!first.has(claim.node.id)) first.set(claim.node.id, claim);
  const { signed, unsigned } = await grantClaims(deps, deps.wakeSql ?? deps.sql, first, {
    isInTransaction: false,
    putBack: async (tasks) =>
      await inTransaction(deps.sql, async (tx) => await putBackGrants(tx, tasks, UNSIGNED_PAUSE_MS)),
  });
  const refusal = signed.length === 0 ? unsigned[0]?.error : undefined;
  if (refusal !== undefined) return claims.map(() => ({ error: refusal }));
  return claims.map((claim) => {
    const isFirst = first.get(claim.node.id) === claim;
    return { value: tellGrants(isFirst ? signed.filter(({ task }) => task.nodeId === claim.node.id) : []) };
  });
}
