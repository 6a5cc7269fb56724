import { returnedOf } from "@hostler/shared/receipts.ts";
import type { ResultClaims } from "@hostler/shared/tasks.ts";
import type { Tx } from "../db/sql.ts";
import { upsertReceipts, type KeptReceipt } from "./receipt-store.ts";

/** Keeps, for each GPU slot that a result speaks of, that result as its last receipt. In the transaction that ends the tasks. */
export async function keepReceipts(
  tx: Tx,
  ends: readonly (Omit<KeptReceipt, "gpuUuid"> & { readonly claims: ResultClaims })[],
): Promise<void> {
  const bySlot = new Map<string, KeptReceipt>();
  for (const { claims, ...end } of ends)
    for (const { gpuUuid } of returnedOf(claims.facts)?.receipts ?? [])
      bySlot.set(`${end.nodeId} ${gpuUuid}`, { ...end, gpuUuid });
  if (bySlot.size > 0) await upsertReceipts(tx, [...bySlot.values()]);
}
