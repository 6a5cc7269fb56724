import type { Node } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { insertAuditRow } from "../audit/store.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { cardsOf, holdCards, settleCards } from "../mig/divided-cards.ts";
import { lockSlot, makeSlotAvailable, type SlotRow } from "./slot-store.ts";
import { readNodes } from "./store.ts";

/**
 * Puts a quarantined slot back into service on an operator's word, which the audit log keeps with what was wrong. For slots whose
 * host could not prove them clean: nothing else ever hands those out again. Refused while the GPU is sick or something holds it.
 */
export async function returnSlot(
  deps: Pick<Deps, "sql">,
  wish: {
    readonly nodeId: string;
    readonly gpuUuid: string;
    readonly reason: string;
    readonly actor: string;
    readonly requestId: string;
  },
): Promise<Node> {
  const { nodeId, gpuUuid, reason, actor, requestId } = wish;
  return await inTransaction(deps.sql, async (tx) => {
    const [card = { nodeId, cardUuid: gpuUuid }] = cardsOf(nodeId, [gpuUuid]);
    await holdCards(tx, [card]);
    const slot = await lockSlot(tx, nodeId, gpuUuid);
    if (slot === undefined) throw new AppError("not_found", { detail: `The host has no GPU ${gpuUuid}.` });
    const refusal = refusalOf(slot);
    if (refusal !== null) throw new AppError("conflict", { detail: `${gpuUuid} ${refusal}` });
    await makeSlotAvailable(tx, nodeId, gpuUuid);
    await settleCards(tx, [card]);
    await insertAuditRow(tx, {
      actor,
      action: "node.slot_returned",
      targetId: nodeId,
      targetVersion: null,
      outcome: "succeeded",
      requestId,
      detail: { gpuUuid, reason, quarantinedFor: slot.reason },
    });
    const [node] = await readNodes(tx, { id: nodeId, after: null, limit: 1 });
    if (node === undefined) throw new AppError("not_found");
    return node;
  });
}

function refusalOf({ state, reason, gpu, isHeld }: SlotRow): string | null {
  if (state === "owned") return "belongs to a slice; release that first.";
  if (state === "available" || state === "divided") return "is in service already.";
  if (isHeld) return `is held on its host: ${reason}. Remove what holds it; it comes back by itself.`;
  return gpu.healthy
    ? null
    : `is not healthy: ${gpu.fault ?? "no reason given"}. It comes back once its host reports it well.`;
}
