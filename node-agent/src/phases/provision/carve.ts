import { placeOf } from "@hostler/shared/gpu-slots.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/** Creates the slice's MIG instances; one that it has already stays. */
export const carve: Phase<ProvisionContext> = {
  name: "carve",
  timeoutMs: 120_000,
  retry: RETRY_FEW,
  probe: async ({ spec }) => {
    if (spec.gpuUuids.length === 0) return notNeeded("The slice has no GPUs.");
    return spec.gpuUuids.some((slotId) => placeOf(slotId) !== null)
      ? NEEDED
      : notNeeded("The slice has whole GPUs, no MIG instances.");
  },
  apply: async ({ spec, gpus, owner, signal }) => await gpus.carve(spec.gpuUuids, owner, signal),
  verify: nothing,
  undo: async ({ spec, gpus, owner, signal }) => await gpus.uncarve(spec.gpuUuids, owner, signal),
};
