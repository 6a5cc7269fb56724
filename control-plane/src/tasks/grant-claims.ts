import { sha256Hex } from "@hostler/pki";
import { LEASE_TTL_MS } from "@hostler/shared/node-protocol.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import type { AuthenticatedNode } from "../http/node-env.ts";
import type { Pki } from "../pki/open-pki.ts";
import { claimTasks, saveGrants, type ClaimedTask } from "./grant-store.ts";
import { claimsOf } from "./grant-task.ts";
import { lockTasks, putBack } from "./store.ts";

export interface GrantDeps extends Pick<Deps, "clock" | "log" | "leaseTtlMs"> {
  readonly pki: Pick<Pki, "signTask">;
}

/** The node that asks, and how many tasks it takes. */
export interface Claim {
  readonly node: Pick<AuthenticatedNode, "id" | "keyThumbprint">;
  readonly credit: number;
  /** The number of its poll. */
  readonly poll: number | null;
}

/** What a poll is told. */
export interface Granted {
  readonly tasks: readonly { readonly jws: string }[];
  /** The highest revision of what was granted; null when nothing was. */
  readonly revision: number | null;
}

export interface Signed {
  readonly task: ClaimedTask;
  readonly jws: string;
}

interface Unsigned {
  readonly task: ClaimedTask;
  readonly error: unknown;
}

/**
 * Takes waiting tasks for one claim of each node, signs a grant for each and saves what was signed, which a result is bound to:
 * before any answer leaves. What the signer refused, or could not sign, is told to `putBack`: nobody has such a grant.
 */
export async function grantClaims(
  deps: GrantDeps,
  db: Queryable,
  claims: ReadonlyMap<string, Claim>,
  how: { readonly isInTransaction: boolean; putBack(unsigned: readonly ClaimedTask[]): Promise<unknown> },
): Promise<{ readonly signed: readonly Signed[]; readonly unsigned: readonly Unsigned[] }> {
  const asked = [...claims.values()].map(({ node, credit, poll }) => ({ nodeId: node.id, limit: credit, poll }));
  const leaseMs = deps.leaseTtlMs ?? LEASE_TTL_MS;
  const claimed = await claimTasks(db, asked, { leaseMs, isInTransaction: how.isInTransaction });
  const { signed, unsigned } = await signAll(deps, claimed, claims);
  for (const { task, error } of unsigned)
    deps.log.error({ taskId: task.id, nodeId: task.nodeId, err: error }, "task not signed");
  // A node gets its task later; the others do not wait for that.
  if (unsigned.length > 0) await how.putBack(unsigned.map(({ task }) => task));
  const grants = signed.map(({ task, jws }) => ({ taskId: task.id, fence: task.fence, digest: sha256Hex(jws) }));
  if (grants.length > 0) await saveGrants(db, grants);
  return { signed, unsigned };
}

async function signAll(
  { pki, clock }: GrantDeps,
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

/** What the poll of one node is told of its grants, in the order in which they were given. */
export function tellGrants(own: readonly Signed[]): Granted {
  const inOrder = own.toSorted((a, b) => Number(a.task.seq) - Number(b.task.seq));
  const revision = own.length === 0 ? null : Math.max(...own.map(({ task }) => Number(task.revision)));
  return { tasks: inOrder.map(({ jws }) => ({ jws })), revision };
}

/**
 * Grants that nobody ever had: their tasks may be granted again after a while. Those that another grant owns by now stay with it.
 * Resolves with how many there were.
 */
export async function putBackGrants(
  tx: Tx,
  grants: readonly Pick<ClaimedTask, "id" | "fence">[],
  delayMs: number,
): Promise<number> {
  const rows = await lockTasks(
    tx,
    grants.map(({ id }) => id),
  );
  const held = rows.filter((row) => grants.some(({ id, fence }) => id === row.id && fence === row.fence));
  await putBack(
    tx,
    held.map(({ id: taskId, failures, crashes, crashPhase }) => ({ taskId, failures, crashes, crashPhase, delayMs })),
  );
  return held.length;
}
