import { AppError } from "@hostler/shared/errors.ts";
import { eachSlot } from "../each-slot.ts";
import { NEEDED, notNeeded, type Phase, type ReleaseContext, nothing, RETRY_FEW } from "../phase.ts";

/** Gives the GPUs back to the host; one that the slice does not hold is left alone. */
export const hostBind: Phase<ReleaseContext> = {
  name: "host_bind",
  timeoutMs: 60_000,
  retry: RETRY_FEW,
  isGate: true,
  probe: async ({ gpuUuids }) => (gpuUuids.length === 0 ? notNeeded("The slice holds no GPUs.") : NEEDED),
  apply: async ({ gpus, gpuUuids, owner, signal }) => {
    const { failures } = await eachSlot(gpuUuids, async (slotId) => {
      await gpus.unbind(slotId, owner, signal);
      if ((await gpus.ownerOf(slotId)) !== owner) return "given back";
      const detail = `${slotId} was given back, but the host still shows it as the slice's.`;
      throw new AppError("gpu_unavailable", { detail });
    });
    return { failures };
  },
  // Read back slot by slot, above.
  verify: nothing,
  undo: nothing,
};
