import type { Queryable } from "../db/sql.ts";
import { readChains, readChainsAt } from "./store.ts";

/** The certificate chains of a node that are not revoked, newest first: whose keys may have signed a result of it. */
export async function readNodeChains(db: Queryable, nodeId: string): Promise<string[]> {
  return await readChains(db, nodeId);
}

/**
 * The certificate chains that the node had at that time, newest first, whatever became of them: what it signed then was judged then.
 */
export async function readNodeChainsAt(db: Queryable, nodeId: string, at: Date): Promise<string[]> {
  return await readChainsAt(db, nodeId, at);
}
