import type { KeyObject } from "node:crypto";
import type { Outcome } from "@hostler/shared/coalesce.ts";
import { LEASE_TTL_MS } from "@hostler/shared/node-protocol.ts";
import { sha256Hex } from "@hostler/pki";
import { makeCoalescer } from "../db/coalesce.ts";
import type { Sql } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import type { AuthenticatedNode } from "../http/node-env.ts";
import type { Pki } from "../pki/open-pki.ts";
import { completeTasks, verifyCompletion, type TaskCompletion, type VerifiedCompletion } from "./complete-task.ts";
import { claimTasks, saveGrants, type ClaimedTask } from "./grant-store.ts";
import { claimsOf } from "./grant-task.ts";
import { lockTasks, putBack } from "./store.ts";
import { progressTasks, type ProgressTaken, type TaskProgress } from "./progress-task.ts";

export interface DispatchDeps extends Pick<Deps, "sql" | "clock" | "wake" | "log" | "leaseTtlMs"> {
  readonly pki: Pick<Pki, "signTask">;
  readonly random: () => number;
  /** For grants, whose statements somebody waits for; without it they take their turn in `sql`. */
  readonly wakeSql?: Sql;
}

/** The node that asks, and how many tasks it takes. */
export interface Claim {
  readonly node: Pick<AuthenticatedNode, "id" | "keyThumbprint">;
  readonly credit: number;
  /** The number of its poll. */
  readonly poll: number | null;
}

export interface Granted {
  readonly tasks: readonly { readonly jws: string }[];
  /** The highest revision of what was granted; null when nothing was. */
  readonly revision: number | null;
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
  const asked = [...first.values()].map(({ node, credit, poll }) => ({ nodeId: node.id, limit: credit, poll }));
  const sql = deps.wakeSql ?? deps.sql;
  const claimed = await claimTasks(sql, asked, deps.leaseTtlMs ?? LEASE_TTL_MS);
  const { signed, unsigned } = await signAll(deps, claimed, first);
  // A node gets its task later; the others do not wait for that.
  if (unsigned.length > 0) await giveBackUnsigned(deps, unsigned);
  // Before the answers leave: a result is bound to its grant.
  const grants = signed.map(({ task, jws }) => ({ taskId: task.id, fence: task.fence, digest: sha256Hex(jws) }));
  if (grants.length > 0) await saveGrants(sql, grants);
  const refusal = signed.length === 0 ? unsigned[0]?.error : undefined;
  if (refusal !== undefined) return claims.map(() => ({ error: refusal }));
  return claims.map((claim) => {
    const isFirst = first.get(claim.node.id) === claim;
    const own = isFirst ? signed.filter(({ task }) => task.nodeId === claim.node.id) : [];
    const inOrder = own.toSorted((a, b) => Number(a.task.seq) - Number(b.task.seq));
    const revision = own.length === 0 ? null : Math.max(...own.map(({ task }) => Number(task.revision)));
    return { value: { tasks: inOrder.map(({ jws }) => ({ jws })), revision } };
  });
}

interface Signed {
  readonly task: ClaimedTask;
  readonly jws: string;
}

interface Unsigned {
  readonly task: ClaimedTask;
  readonly error: unknown;
}

async function signAll(
  { pki, clock }: DispatchDeps,
  claimed: readonly ClaimedTask[],
  claims: ReadonlyMap<string, Claim>,
): Promise<{ readonly signed: readonly Signed[]; readonly unsigned: readonly Unsigned[] }> {
  const now = clock.now();
  const signed: Signed[] = [];
  const unsigned: Unsigned[] = [];
  await Promise.all(
    claimed.map(async (task) => {
      const claim = claims.get(task.nodeId);
      if (claim === undefined) throw new Error("a task of a node that did not ask");
      try {
        signed.push({ task, jws: await pki.signTask(claimsOf(task, claim.node, now)) });
      } catch (error) {
        unsigned.push({ task, error });
      }
    }),
  );
  return { signed, unsigned };
}

/** The signer refused, or is away: nobody has the grant, so the task may be granted again soon. */
async function giveBackUnsigned(deps: DispatchDeps, unsigned: readonly Unsigned[]): Promise<void> {
  for (const { task, error } of unsigned)
    deps.log.error({ taskId: task.id, nodeId: task.nodeId, err: error }, "task not signed");
  await inTransaction(deps.sql, async (tx) => {
    const rows = await lockTasks(
      tx,
      unsigned.map(({ task }) => task.id),
    );
    const held = rows.filter((row) => unsigned.some(({ task }) => task.id === row.id && task.fence === row.fence));
    await putBack(
      tx,
      held.map(({ id: taskId, failures, crashes, crashPhase }) => {
        return { taskId, failures, crashes, crashPhase, delayMs: UNSIGNED_PAUSE_MS };
      }),
    );
  });
}
