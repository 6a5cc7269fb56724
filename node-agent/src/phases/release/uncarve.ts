import { placeOf } from "@hostler/shared/gpu-slots.ts";
import { eachSlot } from "../each-slot.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/** Destroys the slice's MIG instances, where the reset has not, and forgets who had them. */
export const uncarve: Phase<ReleaseContext> = {
  name: "uncarve",
  timeoutMs: 120_000,
  retry: RETRY_FEW,
  probe: async ({ gpuUuids }) =>
    gpuUuids.some((slotId) => placeOf(slotId) !== null) ? NEEDED : notNeeded("The slice had no MIG instances."),
  apply: async ({ gpus, gpuUuids, owner, signal }) => {
    const { failures } = await eachSlot(gpuUuids, async (slotId) => {
      await gpus.uncarve([slotId], owner, signal);
      return "gone";
    });
    return { failures };
  },
  verify: nothing,
  undo: nothing,
};
