import { isAborted } from "@hostler/shared/clock.ts";
import { makeCoalescer } from "../db/coalesce.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Deps } from "../deps.ts";
import { forgetFlushes, noteFlush } from "./lifecycle-store.ts";
import { insertLiveness, updateLiveness, type Seen } from "./store.ts";

const ROUND_MS = 1000;
/** A node that goes on being heard is written this often; one that is not heard any more in the next round. */
const REFRESH_MS = 10_000;
/** Rows of one statement: a tenth of the largest fleet, so that none of them holds up a wake-up. */
const BATCH_MAX = 1000;
/** A node that was not heard for this long is another replica's. */
const FORGET_MS = 600_000;

export type { Seen };

/**
 * Heartbeats: noted in memory by every poll, written once in ten seconds, a part of the nodes each second. What is written is when
 * the node was heard, not when that was written down.
 */
export interface Liveness {
  /**
   * A node that was not heard since this replica started is written before this resolves, so that it is placed on without delay; so
   * is one with a newer trust bundle, which a rotation waits for. Nodes that come together are written together.
   */
  noteSeen(seen: Seen): Promise<void>;
  /** Whether this replica heard this very start of the agent before. */
  knows(nodeId: string, agentInstance: string): boolean;
  /**
   * A poll waits: who holds the line is there, and is heard in every round until the function that comes back is called. One of an
   * earlier start of the agent, whose end went unnoticed, says nothing.
   */
  noteWaiting(seen: Seen): () => void;
  close(): Promise<void>;
}

interface Known {
  seen: Seen;
  /** The replica's own time, as all of these. */
  heardMs: number;
  writtenMs: number;
}

export function startLiveness(deps: Pick<Deps, "sql" | "clock" | "log" | "replicaId">): Liveness {
  const { sql, clock, log } = deps;
  const book = openBook(deps);
  const stopping = new AbortController();
  /** Only after everything that was heard is written: a silence counts when its absence from the table means something. */
  const round = async (isLast: boolean): Promise<void> => {
    // A loop that ended here would show every node as offline until the next restart: say it and go on.
    try {
      await book.writeDue(isLast);
      await noteFlush(sql, deps.replicaId);
    } catch (error) {
      if (isDatabaseAway(error)) log.debug({ err: error }, "heartbeats kept until the database is back");
      else log.error({ err: error }, "heartbeats not written, kept for the next round");
    }
  };
  const loop = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      await clock.sleep(ROUND_MS, stopping.signal);
      await round(false);
    }
  };
  const running = loop().catch((error: unknown) => {
    if (!isAborted(error, stopping.signal)) log.error({ err: error }, "heartbeat loop ended");
  });
  return {
    knows: book.knows,
    noteSeen: book.noteSeen,
    noteWaiting: book.noteWaiting,
    close: async () => {
      stopping.abort();
      await running;
      await round(true);
      await forgetFlushes(sql, deps.replicaId).catch((error: unknown) => {
        if (!isDatabaseAway(error)) throw error;
      });
    },
  };
}

/** Who was heard and when, and what of it is in the table. */
function openBook({ sql, clock }: Pick<Deps, "sql" | "clock">): Omit<Liveness, "close"> & {
  /** Writes those that are due; the last time everybody who was heard since they were written. */
  writeDue(isLast: boolean): Promise<void>;
} {
  /** Who is in the table, as this replica wrote it. */
  const known = new Map<string, Known>();
  /** The newest line that each node holds. */
  const waiting = new Map<string, Seen>();
  const writeAtOnce = makeCoalescer<Seen, void>({
    batchMax: BATCH_MAX,
    run: async (batch) => {
      const newest = new Map(batch.map((seen) => [seen.nodeId, seen]));
      const nowMs = clock.monotonicMs();
      await insertLiveness(sql, [...newest.values()]);
      for (const [nodeId, seen] of newest) known.set(nodeId, { seen, heardMs: nowMs, writtenMs: nowMs });
      return batch.map(() => ({ value: undefined }));
    },
  });
  const hear = (seen: Seen): void => {
    const node = known.get(seen.nodeId);
    if (node?.seen.agentInstance === seen.agentInstance) node.heardMs = clock.monotonicMs();
  };
  const write = async (batch: readonly [string, Known][]): Promise<void> => {
    const nowMs = clock.monotonicMs();
    const heard = batch.map(([nodeId, { seen, heardMs }]) => {
      return { nodeId, ackedRevision: seen.ackedRevision, agoMs: nowMs - heardMs };
    });
    const written = await updateLiveness(sql, heard);
    for (const [nodeId, node] of batch) {
      // Another replica heard it later; should it come back here, it is new again.
      if (written.has(nodeId)) node.writtenMs = nowMs;
      else known.delete(nodeId);
    }
  };
  return {
    knows: (nodeId, agentInstance) => known.get(nodeId)?.seen.agentInstance === agentInstance,
    noteSeen: async (seen) => {
      const node = known.get(seen.nodeId);
      if (!isSame(node?.seen, seen)) return await writeAtOnce(seen);
      hear(seen);
      if (node !== undefined) node.seen = seen;
    },
    noteWaiting: (seen) => {
      waiting.set(seen.nodeId, seen);
      return () => {
        if (waiting.get(seen.nodeId) === seen) waiting.delete(seen.nodeId);
        hear(seen);
      };
    },
    writeDue: async (isLast) => {
      const nowMs = clock.monotonicMs();
      const due: [string, Known][] = [];
      // One walk over ten thousand, because a task that was just made waits for it.
      for (const entry of known) {
        const [nodeId, node] = entry;
        const line = waiting.get(nodeId);
        if (line?.agentInstance === node.seen.agentInstance) node.heardMs = nowMs;
        const mayWait = line !== undefined && !isLast && nowMs - node.writtenMs < REFRESH_MS;
        if (nowMs - node.heardMs > FORGET_MS) known.delete(nodeId);
        else if (node.heardMs > node.writtenMs && !mayWait) due.push(entry);
      }
      for (let from = 0; from < due.length; from += BATCH_MAX) await write(due.slice(from, from + BATCH_MAX));
    },
  };
}

/** Another start of the agent, or newer trust, is written at once. */
function isSame(before: Seen | undefined, seen: Seen): boolean {
  return before?.agentInstance === seen.agentInstance && before.trustVersion === seen.trustVersion;
}
