import { requireSound } from "../gpu-findings.ts";
import { DONE, NEEDED, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";
import { holdsAll } from "../gpu-holds.ts";

/**
 * The gate before a GPU is touched. Read anew each time, health of a minute ago proves nothing; but once the slice has its GPUs,
 * their own driver does not see them any more, and what was found before counts.
 */
export const health: Phase<ProvisionContext> = {
  name: "health",
  timeoutMs: 90_000,
  retry: RETRY_FEW,
  probe: async (context) => {
    if (context.spec.gpuUuids.length === 0) return notNeeded("The slice has no GPUs.");
    return context.facts["health"] !== undefined && (await holdsAll(context, context.spec.gpuUuids)) ? DONE : NEEDED;
  },
  apply: async ({ spec, gpus, signal }) => {
    const { findings, snapshots, evidence } = await gpus.examine(spec.gpuUuids, null, signal);
    requireSound(spec.gpuUuids, findings);
    return { healthyGpuUuids: spec.gpuUuids, snapshots, ...evidence };
  },
  verify: nothing,
  undo: nothing,
};
