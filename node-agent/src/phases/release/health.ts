import { healthRows } from "../gpu-findings.ts";
import { snapshotsOf } from "../receipts.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/**
 * How the GPUs came back, compared with how they were handed over. A sick GPU does not keep the disk from being erased: `return`
 * judges it, at the end.
 */
export const healthAfter: Phase<ReleaseContext> = {
  name: "health",
  timeoutMs: 90_000,
  retry: RETRY_FEW,
  probe: async ({ gpuUuids }) => (gpuUuids.length === 0 ? notNeeded("The slice had no GPUs.") : NEEDED),
  apply: async ({ gpus, gpuUuids, provision, signal }) => {
    const { findings, evidence } = await gpus.examine(gpuUuids, snapshotsOf(provision), signal);
    return { health: healthRows(gpuUuids, findings), ...evidence };
  },
  verify: nothing,
  undo: nothing,
};
