import type { Tx } from "../db/sql.ts";
import { raiseFencesAbove, raiseSequenceAbove } from "./grant-store.ts";

/**
 * A starting agent says what it has seen: what it is granted from now on lies above, also when the database was restored from a
 * backup and has forgotten it.
 */
export async function raiseAboveSeen(
  tx: Tx,
  seen: { readonly nodeId: string; readonly seq: number; readonly fence: string | null },
): Promise<void> {
  await raiseSequenceAbove(tx, seen.nodeId, seen.seq);
  if (seen.fence !== null) await raiseFencesAbove(tx, seen.fence);
}
