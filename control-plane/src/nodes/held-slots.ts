import type { Tx } from "../db/sql.ts";
import { syncHeldSlots, type HeldGpus } from "./slot-store.ts";

/** Nobody gets a GPU that something on its host still holds; free again once the host does not show it any more. May run twice. */
export async function keepHeldSlots(tx: Tx, nodeId: string, held: readonly HeldGpus[]): Promise<void> {
  await syncHeldSlots(tx, nodeId, held);
}
