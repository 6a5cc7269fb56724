import { isAborted } from "@hostler/shared/clock.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Deps } from "../deps.ts";
import { forgetFlushes, noteFlush } from "./lifecycle-store.ts";
import { flushLiveness, type Seen } from "./store.ts";

const FLUSH_MS = 5000;

export type { Seen };

/** Heartbeats: noted in memory by every poll, written in one statement every five seconds. */
export interface Liveness {
  /**
   * A node that was not heard since this replica started is written at once, so that it is placed on without delay; so is one
   * with a newer trust bundle, which a rotation waits for.
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

export function startLiveness(deps: Pick<Deps, "sql" | "clock" | "log" | "replicaId">): Liveness {
  const pending = new Map<string, Seen>();
  /** What was last written at once: the agent's start and its trust. */
  const known = new Map<string, string>();
  const waiting = new Set<Seen>();
  const stopping = new AbortController();
  /** False when the database is away and what was heard is kept. */
  const flush = async (): Promise<boolean> => {
    for (const seen of waiting) if (known.get(seen.nodeId) === newsOf(seen)) pending.set(seen.nodeId, seen);
    if (pending.size === 0) return true;
    const batch = [...pending.values()];
    pending.clear();
    try {
      await flushLiveness(deps.sql, batch);
    } catch (error) {
      for (const seen of batch) if (!pending.has(seen.nodeId)) pending.set(seen.nodeId, seen);
      if (!isDatabaseAway(error)) throw error;
      deps.log.debug({ err: error }, "heartbeats kept until the database is back");
      return false;
    }
    return true;
  };
  /** Only after everything that was heard is written: a silence counts when its absence from the table means something. */
  const flushAndTell = async (): Promise<void> => {
    if (await flush()) await noteFlush(deps.sql, deps.replicaId);
  };
  const loop = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      await deps.clock.sleep(FLUSH_MS, stopping.signal);
      // A loop that ended here would show every node as offline until the next restart: say it and go on.
      await flushAndTell().catch((error: unknown) => {
        if (!isDatabaseAway(error)) deps.log.error({ err: error }, "heartbeats not written, kept for the next round");
      });
    }
  };
  const running = loop().catch((error: unknown) => {
    if (!isAborted(error, stopping.signal)) deps.log.error({ err: error }, "heartbeat loop ended");
  });
  return {
    knows: (nodeId, agentInstance) => known.get(nodeId)?.startsWith(`${agentInstance} `) === true,
    noteSeen: async (seen) => {
      pending.set(seen.nodeId, seen);
      const news = newsOf(seen);
      if (known.get(seen.nodeId) === news) return;
      await flush();
      known.set(seen.nodeId, news);
    },
    noteWaiting: (seen) => {
      waiting.add(seen);
      return () => void waiting.delete(seen);
    },
    close: async () => {
      stopping.abort();
      await running;
      await flush();
      await forgetFlushes(deps.sql, deps.replicaId).catch((error: unknown) => {
        if (!isDatabaseAway(error)) throw error;
      });
    },
  };
}

/** What is written at once when it changes. */
function newsOf(seen: Seen): string {
  return `${seen.agentInstance} ${seen.trustVersion}`;
}
