import { AppError } from "@hostler/shared/errors.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/** The gate before a GPU is touched. Always read anew: health of a minute ago proves nothing. */
export const health: Phase<ProvisionContext> = {
  name: "health",
  timeoutMs: 90_000,
  retry: RETRY_FEW,
  probe: async ({ spec }) => (spec.gpuUuids.length === 0 ? notNeeded("The slice has no GPUs.") : NEEDED),
  apply: async ({ spec, gpus, signal }) => {
    const mine = (await gpus.list(signal)).filter((gpu) => spec.gpuUuids.includes(gpu.uuid));
    const gone = spec.gpuUuids.filter((uuid) => mine.every((gpu) => gpu.uuid !== uuid));
    const sick = mine.filter((gpu) => !gpu.healthy);
    const faults = [
      ...gone.map((uuid) => `${uuid} is gone`),
      ...sick.map((gpu) => `${gpu.uuid}: ${gpu.fault ?? "unhealthy"}`),
    ];
    if (faults.length > 0) {
      throw new AppError("gpu_unavailable", {
        detail: faults.join("; "),
        facts: { gpuUuids: [...gone, ...sick.map((gpu) => gpu.uuid)] },
      });
    }
    return { healthyGpuUuids: mine.map((gpu) => gpu.uuid) };
  },
  verify: nothing,
  undo: nothing,
};
