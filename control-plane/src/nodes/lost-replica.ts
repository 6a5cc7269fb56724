import type { Queryable } from "../db/sql.ts";
import { findLostReplica } from "./lifecycle-store.ts";

/**
 * Whether a replica was lost within the last minute. Its nodes are on their way to another one, all at once: that they are late is our
 * doing, and nothing of theirs ends because of it.
 */
export async function wasReplicaLost(db: Queryable): Promise<boolean> {
  return await findLostReplica(db);
}
