import type { Socket } from "node:net";
import { isAborted } from "@hostler/shared/clock.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { NODES_REFUSED_TOPIC } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import type { CertificateAuthority } from "../pki/certificate-authority.ts";
import { findRefused } from "./store.ts";

/** What a connection was judged by. */
interface Holder {
  readonly nodeId: string;
  readonly expiresAt: Date;
  /** Generation of the CA; unknown until the record was read. */
  readonly authority?: number;
}

/** The open connections of nodes on this replica: polls, uploads, terminals. */
export interface LiveSockets {
  add(socket: Socket, holder: Holder): void;
  readonly size: number;
}

export interface RunningLiveSockets extends LiveSockets {
  close(): Promise<void>;
}

const ROUND_MS = 1000;
/** The tables are read at every wake-up, and every so many rounds in case one was lost. */
const ROUNDS_BETWEEN_READS = 5;

/**
 * Cuts connections whose holder is refused now: a revoked or frozen node, an expired certificate, a CA that was rotated out. A
 * request is judged when it comes; this is for what was judged before, a poll that waits or a terminal that is open. Woken by
 * the commit that refuses the node, on every replica.
 */
export function startLiveSockets(
  deps: Pick<Deps, "sql" | "clock" | "log" | "wake"> & { readonly authority: CertificateAuthority },
): RunningLiveSockets {
  const holders = new Map<Socket, Holder>();
  const stopping = new AbortController();
  const cutWhere = (isRefused: (holder: Holder) => boolean): void => {
    for (const [socket, holder] of holders) if (isRefused(holder)) socket.destroy();
  };
  const cutRefused = async (): Promise<void> => {
    const ids = [...new Set([...holders.values()].map(({ nodeId }) => nodeId))];
    if (ids.length === 0) return;
    const refused = new Set(await findRefused(deps.sql, ids));
    if (refused.size > 0) cutWhere(({ nodeId }) => refused.has(nodeId));
  };
  const round = async (mustRead: boolean): Promise<void> => {
    const now = deps.clock.now();
    cutWhere(({ expiresAt }) => expiresAt <= now);
    cutWhere(({ authority }) => authority !== undefined && !deps.authority.isTrusted(authority));
    if (mustRead) await cutRefused();
  };
  const wait = async (): Promise<boolean> => {
    const startedMs = deps.clock.monotonicMs();
    await deps.wake.wait(NODES_REFUSED_TOPIC, ROUND_MS, stopping.signal);
    return deps.clock.monotonicMs() - startedMs < ROUND_MS;
  };
  const loop = async (): Promise<void> => {
    // The next wait begins before the tables are read, so that a wake-up during the read is not lost.
    let next = wait();
    for (let count = 0; !stopping.signal.aborted; count += 1) {
      const isWoken = await next;
      next = wait();
      next.catch(() => "thrown where it is awaited");
      await round(isWoken || count % ROUNDS_BETWEEN_READS === 0).catch((error: unknown) => {
        if (!isDatabaseAway(error)) deps.log.error({ err: error }, "live connections not judged, in a second again");
      });
    }
  };
  const running = loop().catch((error: unknown) => {
    if (!isAborted(error, stopping.signal)) deps.log.error({ err: error }, "judging of live connections ended");
  });
  return {
    get size() {
      return holders.size;
    },
    add: (socket, holder) => {
      if (socket.destroyed) return;
      if (!holders.has(socket)) socket.once("close", () => holders.delete(socket));
      holders.set(socket, holder);
    },
    close: async () => {
      stopping.abort(new Error("closing"));
      await running;
    },
  };
}
