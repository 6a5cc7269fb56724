import { AppError } from "@hostler/shared/errors.ts";
import type { Queryable } from "../db/sql.ts";
import { listSlotsWithReceipts, type SlotWithReceipt } from "./receipt-store.ts";
import { readNodes } from "./store.ts";

/** `not_found` when there is no such node. */
export async function readSlots(db: Queryable, nodeId: string): Promise<SlotWithReceipt[]> {
  const [node] = await readNodes(db, { id: nodeId, after: null, limit: 1 });
  if (node === undefined) throw new AppError("not_found");
  return await listSlotsWithReceipts(db, nodeId);
}
