import type { Tx } from "../db/sql.ts";
import { cardsOf, holdCards, settleCards } from "../mig/divided-cards.ts";
import { updateFreedSlots, type FreedSlots } from "./store.ts";

/** Frees what allocations own, or quarantines it; the places of parts that come back are free for others by the same commit. */
export async function freeSlotsOf(tx: Tx, freed: readonly FreedSlots[]): Promise<void> {
  const cards = freed.flatMap(({ nodeId, gpus }) =>
    cardsOf(
      nodeId,
      gpus.map((gpu) => gpu.uuid),
    ),
  );
  await holdCards(tx, cards);
  const divided = await updateFreedSlots(tx, freed);
  await settleCards(tx, [...cards, ...divided]);
}
