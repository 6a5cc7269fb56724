import { eachSlot } from "../each-slot.ts";
import { heldSlots } from "../gpu-holds.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/** Resets each GPU that the slice still holds, before the host gets it back. */
export const reset: Phase<ReleaseContext> = {
  name: "reset",
  timeoutMs: 60_000,
  retry: RETRY_FEW,
  isGate: true,
  probe: async (context) =>
    (await heldSlots(context, context.gpuUuids)).length === 0 ? notNeeded("The slice holds no GPUs.") : NEEDED,
  apply: async (context) => {
    const { gpus, gpuUuids, signal } = context;
    const held = await heldSlots(context, gpuUuids);
    const { done, failures } = await eachSlot(held, async (slotId) => await gpus.reset(slotId, signal));
    return { resets: done, failures };
  },
  verify: nothing,
  undo: nothing,
};
