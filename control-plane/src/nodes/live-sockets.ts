import type { Socket } from "node:net";
import { isAborted } from "@hostler/shared/clock.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { EVERYTHING, nodeOfRefusedTopic } from "../db/wake-bus.ts";
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
/** Each node's record is read every so many rounds, in case a wake-up was lost; a part of the nodes each round. */
const PARTS = 5;

/**
 * Cuts connections whose holder is refused now: a revoked or frozen node, an expired certificate, a CA that was rotated out. A
 * request is judged when it comes; this is for what was judged before, a poll that waits or a terminal that is open. The wake-up of
 * the commit that refuses a node cuts at once, on every replica, without asking whether it is true: a node that is not refused
 * comes back on a new connection.
 */
export function startLiveSockets(
  deps: Pick<Deps, "sql" | "clock" | "log" | "wake"> & { readonly authority: CertificateAuthority },
): RunningLiveSockets {
  const holders = new Map<Socket, Holder>();
  const stopping = new AbortController();
  const cutWhere = (isRefused: (holder: Holder) => boolean): void => {
    for (const [socket, holder] of holders) if (isRefused(holder)) socket.destroy();
  };
  const cutRefused = async (nodeIds: ReadonlySet<string>): Promise<void> => {
    if (nodeIds.size === 0) return;
    const refused = new Set(await findRefused(deps.sql, [...nodeIds]));
    if (refused.size > 0) cutWhere(({ nodeId }) => refused.has(nodeId));
  };
  deps.wake.listen((topic) => {
    const refused = nodeOfRefusedTopic(topic);
    if (refused !== null) cutWhere(({ nodeId }) => nodeId === refused);
    // More at once than a wake-up names, or wake-ups were lost: the tables know.
    if (topic !== EVERYTHING) return;
    const all = new Set([...holders.values()].map(({ nodeId }) => nodeId));
    void cutRefused(all).catch(() => "read again within seconds");
  });
  const round = async (part: number): Promise<void> => {
    const nowMs = deps.clock.now().getTime();
    const trusted = new Map<number | undefined, boolean>([[undefined, true]]);
    const isTrusted = (authority: number | undefined): boolean => {
      const known = trusted.get(authority) ?? (authority !== undefined && deps.authority.isTrusted(authority));
      trusted.set(authority, known);
      return known;
    };
    const asked = new Set<string>();
    // One walk over ten thousand, because a task that was just made waits for it.
    for (const [socket, { nodeId, expiresAt, authority }] of holders) {
      if (expiresAt.getTime() <= nowMs || !isTrusted(authority)) socket.destroy();
      else if (nodeId.charCodeAt(nodeId.length - 1) % PARTS === part) asked.add(nodeId);
    }
    await cutRefused(asked);
  };
  const loop = async (): Promise<void> => {
    for (let count = 1; !stopping.signal.aborted; count += 1) {
      await deps.clock.sleep(ROUND_MS, stopping.signal);
      await round(count % PARTS).catch((error: unknown) => {
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
