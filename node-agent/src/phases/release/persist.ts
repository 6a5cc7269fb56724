import { NEEDED, noFacts, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/** Undo of `quiesce`. */
export const persist: Phase<ReleaseContext> = {
  name: "persist",
  timeoutMs: 90_000,
  retry: RETRY_FEW,
  probe: async ({ gpus, gpuUuids }) => {
    if (gpuUuids.length === 0) return notNeeded("The slice had no GPUs.");
    return gpus.simulated ? notNeeded("Simulated GPUs have no settings.") : NEEDED;
  },
  apply: async ({ gpus, gpuUuids, signal }) => {
    await gpus.restore(gpuUuids, signal);
    return await noFacts();
  },
  verify: nothing,
  undo: nothing,
};
