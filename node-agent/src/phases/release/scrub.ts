import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/** What proves that the GPUs' memory is clean, for the receipt; `unproven` where nothing on the host does. */
export const scrub: Phase<ReleaseContext> = {
  name: "scrub",
  timeoutMs: 300_000,
  retry: RETRY_FEW,
  probe: async ({ gpuUuids }) => (gpuUuids.length === 0 ? notNeeded("The slice had no GPUs.") : NEEDED),
  apply: async ({ gpus, gpuUuids, signal }) => {
    const scrubs: Record<string, string> = {};
    for (const slotId of gpuUuids) scrubs[slotId] = await gpus.proveClean(slotId, signal);
    return { scrubs };
  },
  verify: nothing,
  undo: nothing,
};
