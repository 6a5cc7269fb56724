import type { PhaseContext } from "./phase.ts";

type Holder = Pick<PhaseContext, "gpus" | "owner">;

/** Those of the slots that the slice holds on this host. */
export async function heldSlots({ gpus, owner }: Holder, slotIds: readonly string[]): Promise<string[]> {
  const owners = await Promise.all(slotIds.map(async (slotId) => await gpus.ownerOf(slotId)));
  return slotIds.filter((_slotId, index) => owners[index] === owner);
}

export async function holdsAll(holder: Holder, slotIds: readonly string[]): Promise<boolean> {
  return (await heldSlots(holder, slotIds)).length === slotIds.length;
}
