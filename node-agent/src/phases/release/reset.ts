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
    const resets: Record<string, string> = {};
    for (const uuid of await heldSlots(context, context.gpuUuids))
      resets[uuid] = await context.gpus.reset(uuid, context.signal);
    return { resets };
  },
  verify: nothing,
  undo: nothing,
};
