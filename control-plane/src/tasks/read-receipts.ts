import type { Receipt, SlotReceipts } from "@hostler/shared/api/receipts.ts";
import type { Queryable } from "../db/sql.ts";
import { readSlots } from "../nodes/read-slots.ts";
import { listSliceEnds } from "./history-store.ts";
import { openReceipt } from "./open-receipt.ts";

/** What the hosts of a slice say that they did when it ended there, newest first; as long as the history of tasks is kept. */
export async function readReceiptsOfSlice(db: Queryable, allocationId: string): Promise<Receipt[]> {
  const ends = await listSliceEnds(db, allocationId);
  const receipts = await Promise.all(ends.map(async (end) => await openReceipt(db, end)));
  return receipts.filter((receipt) => receipt !== null);
}

/** The slots of a node, each with what was done when it was last given back. */
export async function readReceiptsOfSlots(db: Queryable, nodeId: string): Promise<SlotReceipts> {
  const slots = await readSlots(db, nodeId);
  const items = slots.map(async ({ gpuUuid, gpuKind, state, reason, receipt }) => ({
    gpuUuid,
    kind: gpuKind,
    state,
    reason,
    receipt:
      receipt === null ? null : await openReceipt(db, { ...receipt, nodeId, endedAt: new Date(receipt.endedAt) }),
  }));
  return { items: await Promise.all(items) };
}
