import { AppError } from "@hostler/shared/errors.ts";
import { within } from "@hostler/shared/within.ts";
import type { Sql, Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import type { AuthenticatedNode } from "../http/node-env.ts";
import {
  grantClaims,
  putBackGrants,
  tellGrants,
  type Claim,
  type GrantDeps,
  type Granted,
  type Signed,
} from "./grant-claims.ts";
import { isSessionEnded } from "./grant-store.ts";

/**
 * Where a request that makes a task and the poll that waits for it are at the same replica, the task is granted in the transaction
 * that makes it, and the poll is answered by its commit: nothing is left to do between the two. Everybody else is woken and takes
 * the task from the tables, as ever; whatever goes wrong here ends there.
 *
 *   a poll      waiting → taken → given its tasks, or told that there are none and going on as before
 *   the request         → granted, in the transaction → committed, and given to the poll
 *                                                     → rolled back, or the poll is gone: the grants are put back
 */
export interface HandOver {
  /** The poll may be given tasks, until it ends the offer. */
  offer(claim: Offered): Offer;
  /** Runs `work` in one transaction, as `inTransaction` does. What it granted goes to the polls after the commit. */
  inTransaction<Result>(work: (tx: Tx, grant: GrantTo) => Promise<Result>): Promise<Result>;
}

interface Offered extends Claim {
  readonly node: Claim["node"] & Pick<AuthenticatedNode, "session">;
}

export interface Offer {
  /** Call it once the poll was woken, by whatever: resolves with what it is given; null when that is nothing. */
  end(): Promise<Granted | null>;
  /** The poll is over: nobody would hear of what it is given. */
  withdraw(): void;
}

/**
 * Grants what waits for the node to the poll that waits here, as the last step of a transaction. Resolves with false when there is no
 * such poll or nothing was granted: the node is to be woken after the commit.
 */
export type GrantTo = (nodeId: string) => Promise<boolean>;

export type HandOverDeps = GrantDeps & Pick<Deps, "wake"> & { readonly sql: Sql };

/** The transaction holds the node and what the project may have: a signer that takes longer is waited for by the poll. */
const SIGN_MS_MAX = 250;

const signerTooLate = (): AppError =>
  new AppError("service_unavailable", { detail: `The task signer did not answer within ${SIGN_MS_MAX} ms.` });

interface Poll {
  readonly claim: Offered;
  /** What the transaction that took it gives it. */
  given: PromiseWithResolvers<Granted | null> | null;
  isGone: boolean;
}

/** A poll that a transaction took, and what that grants it. */
interface Taken {
  readonly poll: Poll;
  signed: readonly Signed[];
}

export function makeHandOver(deps: HandOverDeps): HandOver {
  const polls = makePolls();
  const signTask: GrantDeps["pki"]["signTask"] = async (claims) =>
    await within(deps.clock, SIGN_MS_MAX, async () => await deps.pki.signTask(claims), signerTooLate);
  const inTime: GrantDeps = { ...deps, pki: { signTask } };
  return {
    offer: polls.offer,
    inTransaction: async (work) => {
      const taken: Taken[] = [];
      const grant = async (tx: Tx, nodeId: string): Promise<boolean> => {
        const poll = polls.take(nodeId);
        if (poll === null) return false;
        const mine: Taken = { poll, signed: [] };
        taken.push(mine);
        mine.signed = await grantWithin(inTime, tx, poll.claim);
        return mine.signed.length > 0;
      };
      try {
        const result = await inTransaction(
          deps.sql,
          async (tx) => await work(tx, async (nodeId) => await grant(tx, nodeId)),
        );
        for (const each of taken) await give(deps, each);
        return result;
      } catch (error) {
        for (const each of taken) keep(deps, each);
        throw error;
      }
    },
  };
}

/** Those that wait here: the newest of each node. */
function makePolls(): { readonly offer: HandOver["offer"]; take(nodeId: string): Poll | null } {
  const waiting = new Map<string, Poll>();
  return {
    offer: (claim) => {
      const poll: Poll = { claim, given: null, isGone: false };
      const nodeId = claim.node.id;
      const leave = (): void => {
        if (waiting.get(nodeId) === poll) waiting.delete(nodeId);
      };
      waiting.set(nodeId, poll);
      return {
        end: async () => {
          leave();
          return poll.given === null ? null : await poll.given.promise;
        },
        withdraw: () => {
          leave();
          poll.isGone = true;
        },
      };
    },
    take: (nodeId) => {
      const poll = waiting.get(nodeId);
      if (poll === undefined) return null;
      waiting.delete(nodeId);
      poll.given = Promise.withResolvers();
      return poll;
    },
  };
}

async function grantWithin(deps: GrantDeps, tx: Tx, claim: Offered): Promise<readonly Signed[]> {
  const { id, session } = claim.node;
  // As of a poll that looks itself: a later start of the agent has what this one asks for.
  if (await isSessionEnded(tx, id, session)) return [];
  const { signed } = await grantClaims(deps, tx, new Map([[id, claim]]), {
    isInTransaction: true,
    putBack: async (tasks) => await putBackGrants(tx, tasks, 0),
  });
  return signed;
}

/** After the commit. */
async function give(deps: HandOverDeps, { poll, signed }: Taken): Promise<void> {
  poll.given?.resolve(signed.length === 0 ? null : tellGrants(signed));
  if (poll.isGone) await takeBack(deps, signed);
  else if (signed.length > 0) deps.wake.wakeHere(nodeTopic(poll.claim.node.id));
}

/** After a failure. The commit may have been done and only its answer lost; who asked does not wait until that is known. */
function keep(deps: HandOverDeps, { poll, signed }: Taken): void {
  poll.given?.resolve(null);
  void takeBack(deps, signed);
}

/** Nobody was told of these grants. */
async function takeBack(deps: HandOverDeps, signed: readonly Signed[]): Promise<void> {
  if (signed.length === 0) return;
  const tasks = signed.map(({ task }) => task);
  try {
    const count = await inTransaction(deps.sql, async (tx) => await putBackGrants(tx, tasks, 0));
    if (count === 0) return;
  } catch (error) {
    const taskIds = tasks.map(({ id }) => id);
    deps.log.warn(
      { err: error, taskIds },
      "grants that nobody has, if they were committed, wait for their leases to end",
    );
  }
  for (const nodeId of new Set(tasks.map((task) => task.nodeId))) deps.wake.wake(nodeTopic(nodeId));
}
