import type { Queryable } from "../db/sql.ts";
import { readChains } from "./store.ts";

/** The certificate chains of a node that are not revoked, newest first: whose keys may have signed a result of it. */
export async function readNodeChains(db: Queryable, nodeId: string): Promise<string[]> {
  return await readChains(db, nodeId);
}
