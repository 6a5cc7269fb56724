import { healthOf } from "../receipts.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/** How the GPUs came back. A sick GPU does not keep the disk from being erased: `return` judges it, at the end. */
export const healthAfter: Phase<ReleaseContext> = {
  name: "health",
  timeoutMs: 90_000,
  retry: RETRY_FEW,
  probe: async ({ gpuUuids }) => (gpuUuids.length === 0 ? notNeeded("The slice had no GPUs.") : NEEDED),
  apply: async ({ gpus, gpuUuids, signal }) => {
    const present = new Map((await gpus.list(signal)).map((gpu) => [gpu.uuid, gpu]));
    return { health: Object.fromEntries(gpuUuids.map((uuid) => [uuid, healthOf(present.get(uuid))])) };
  },
  verify: nothing,
  undo: nothing,
};
