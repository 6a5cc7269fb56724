import type { Socket } from "node:net";
import { isAborted } from "@hostler/shared/clock.ts";
import { makeCoalescer } from "../db/coalesce.ts";
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
  /** Under load every hint may be one of everything: those that come during a look share the next. */
  const lookAtAll = makeCoalescer<null, void>({
    batchMax: Number.POSITIVE_INFINITY,
    run: async (hints) => {
      await cutRefused(new Set([...holders.values()].map(({ nodeId }) => nodeId)));
      return hints.map(() => ({ value: undefined }));
    },
  });
  deps.wake.listen((topic) => {
    const refused = nodeOfRefusedTopic(topic);
    if (refused !== null) cutWhere(({ nodeId }) => nodeId === refused);
    // More at once than a wake-up names, or wake-ups were lost: the tables know.
    if (topic === EVERYTHING) void lookAtAll(null).catch(() => "read again within seconds");
  });
  const loop = async (): Promise<void> => {
    for (let count = 1; !stopping.signal.aborted; count += 1) {
      await deps.clock.sleep(ROUND_MS, stopping.signal);
      await cutRefused(judgeHolders(holders, deps, count % PARTS)).catch((error: unknown) => {
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

/**
 * Cuts what its certificate holds no more, and returns the nodes of that part of the rest. One walk over ten thousand, because a task
 * that was just made waits for it.
 */
function judgeHolders(
  holders: ReadonlyMap<Socket, Holder>,
  { clock, authority: authorities }: Pick<Deps, "clock"> & { readonly authority: CertificateAuthority },
  part: number,
): Set<string> {
  const nowMs = clock.now().getTime();
  const trusted = new Map<number | undefined, boolean>([[undefined, true]]);
  const isTrusted = (authority: number | undefined): boolean => {
    const known = trusted.get(authority) ?? (authority !== undefined && authorities.isTrusted(authority));
    trusted.set(authority, known);
    return known;
  };
  const asked = new Set<string>();
  for (const [socket, { nodeId, expiresAt, authority }] of holders) {
    if (expiresAt.getTime() <= nowMs || !isTrusted(authority)) socket.destroy();
    else if (nodeId.charCodeAt(nodeId.length - 1) % PARTS === part) asked.add(nodeId);
  }
  return asked;
}
