import { fileURLToPath } from "node:url";
import { startCrowd, type Crowd } from "./crowd.ts";
import type { PeerStart } from "./peer-worker.ts";

export const PEER_NAMES = ["graphile-worker", "pg-boss", "pg-boss, batches of 32"] as const;
export type PeerName = (typeof PEER_NAMES)[number];

const PROCESSES = 2;

/** Another job queue on the same PostgreSQL, in as many processes as there are replicas. */
export async function startPeer(options: {
  readonly peer: PeerName;
  readonly databaseUrl: string;
  say(line: string): void;
}): Promise<Crowd> {
  const { peer, databaseUrl, say } = options;
  const starts = Array.from({ length: PROCESSES }, (): PeerStart => ({ peer, databaseUrl }));
  const script = fileURLToPath(new URL("./peer-worker.ts", import.meta.url));
  return await startCrowd({ script, starts, readyTotal: PROCESSES, say });
}
