import { makeCoalescer } from "../db/coalesce.ts";
import type { Sql } from "../db/sql.ts";
import { readHeld, readProgressOfNodes, renewLeases, type HeldBy, type NodeProgress, type StillHeld } from "./store.ts";

/** What polls ask the tables; those that ask together share a statement. */
export interface PollReads {
  /** Undefined when there is no such node. */
  readProgress(nodeId: string): Promise<NodeProgress | undefined>;
  /** Prolongs the leases of what a node holds, and resolves with what it still holds. */
  renew(held: readonly HeldBy[]): Promise<readonly StillHeld[]>;
  /** The same without prolonging. */
  look(held: readonly HeldBy[]): Promise<readonly StillHeld[]>;
}

const NODES_MAX = 500;
const POLLS_MAX = 64;

/** `wakeSql`: for what lies between a wake-up and its answer. A renewal may wait for a task that is being written. */
export function gatherPolls(
  { sql, wakeSql }: { readonly sql: Sql; readonly wakeSql: Sql },
  leaseMs: number,
): PollReads {
  return {
    readProgress: makeCoalescer({
      batchMax: NODES_MAX,
      run: async (nodeIds: readonly string[]) => {
        const found = await readProgressOfNodes(wakeSql, nodeIds);
        return nodeIds.map((nodeId) => ({ value: found.get(nodeId) }));
      },
    }),
    renew: gatherHeld(async (held) => await renewLeases(sql, held, leaseMs)),
    look: gatherHeld(async (held) => await readHeld(wakeSql, held)),
  };
}

function gatherHeld(ask: (held: readonly HeldBy[]) => Promise<StillHeld[]>): PollReads["renew"] {
  return makeCoalescer({
    batchMax: POLLS_MAX,
    run: async (polls: readonly (readonly HeldBy[])[]) => {
      const still = new Map((await ask(polls.flat())).map((one) => [`${one.taskId} ${one.fence}`, one]));
      return polls.map((held) => ({
        value: held.flatMap(({ taskId, fence }) => still.get(`${taskId} ${fence}`) ?? []),
      }));
    },
  });
}
