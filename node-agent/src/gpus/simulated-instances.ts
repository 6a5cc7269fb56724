import { AppError } from "@hostler/shared/errors.ts";
import { cardOf, placeOf } from "@hostler/shared/gpu-slots.ts";
import type { MigProfileOffer } from "@hostler/shared/node-protocol.ts";
import type { GpuHost } from "../ports/gpu-host.ts";

/** Who had which MIG instance made, by slot. */
export interface Carved {
  readonly carved: Readonly<Record<string, string>>;
}

/** Made-up instances on made-up cards, by the tables of real ones. */
export function simulatedInstances<State extends Carved>(
  change: (edit: (state: State) => State) => Promise<void>,
  profiles: readonly MigProfileOffer[],
): Pick<GpuHost, "carve" | "uncarve"> {
  return {
    carve: async (slotIds, owner) => {
      const mine = slotIds.filter((slotId) => placeOf(slotId) !== null);
      await change((state) => {
        for (const slotId of mine) requireRoom(state, { slotId, owner, profiles });
        return { ...state, carved: { ...state.carved, ...Object.fromEntries(mine.map((slotId) => [slotId, owner])) } };
      });
      return { instances: Object.fromEntries(mine.map((slotId) => [slotId, "simulated"])) };
    },
    uncarve: async (slotIds, owner) =>
      await change((state) => ({
        ...state,
        carved: Object.fromEntries(
          Object.entries(state.carved).filter(([slotId, other]) => other !== owner || !slotIds.includes(slotId)),
        ),
      })),
  };
}

/** As a card does: no instance where another one lies, and none that the card does not know. */
function requireRoom(
  { carved }: Carved,
  {
    slotId,
    owner,
    profiles,
  }: { readonly slotId: string; readonly owner: string; readonly profiles: readonly MigProfileOffer[] },
): void {
  const extentOf = (id: string): { readonly start: number; readonly end: number } | null => {
    const place = placeOf(id);
    const profile = profiles.find((each) => each.id === place?.profileId);
    const isKnown = place !== null && profile?.starts.includes(place.start) === true;
    return isKnown ? { start: place.start, end: place.start + profile.size } : null;
  };
  const wanted = extentOf(slotId);
  if (wanted === null) throw unavailable(slotId, "is no place on this card");
  for (const [other, holder] of Object.entries(carved)) {
    const taken = cardOf(other) === cardOf(slotId) ? extentOf(other) : null;
    if (holder !== owner && taken !== null && taken.start < wanted.end && wanted.start < taken.end)
      throw new AppError("capacity_unavailable", { detail: `${slotId} lies over ${other}, which ${holder} has.` });
  }
}

export function unavailable(slotId: string, why: string): AppError {
  return new AppError("gpu_unavailable", { detail: `${slotId} ${why}.`, facts: { gpuUuids: [slotId] } });
}
