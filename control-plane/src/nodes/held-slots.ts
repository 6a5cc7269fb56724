import { parseSlotId } from "@hostler/shared/gpu-slots.ts";
import type { Tx } from "../db/sql.ts";
import { keepHeldPlaces, settleCards } from "../mig/divided-cards.ts";
import { HELD, syncHeldSlots, type HeldGpus } from "./slot-store.ts";

/**
 * Nobody gets a GPU, or a place on one, that something on its host still holds; free again once the host does not show it any
 * more. May run twice.
 */
export async function keepHeldSlots(tx: Tx, nodeId: string, held: readonly HeldGpus[]): Promise<void> {
  const rows = held.flatMap(({ holder, gpuUuids }) => gpuUuids.map((uuid) => ({ uuid, reason: `${HELD}${holder}` })));
  const isPart = ({ uuid }: { readonly uuid: string }): boolean => (parseSlotId(uuid)?.place ?? null) !== null;
  const parts = rows.filter(isPart).map(({ uuid, reason }) => ({ slotId: uuid, reason }));
  const unclear = await keepHeldPlaces(tx, { nodeId, prefix: HELD, parts });
  const whole = [
    ...rows.filter((row) => !isPart(row)),
    ...unclear.map(({ cardUuid, reason }) => ({ uuid: cardUuid, reason })),
  ];
  const changed = await syncHeldSlots(tx, nodeId, whole);
  await settleCards(
    tx,
    changed.map((cardUuid) => ({ nodeId, cardUuid })),
  );
}
