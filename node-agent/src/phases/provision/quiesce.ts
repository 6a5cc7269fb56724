import { NEEDED, notNeeded, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/** Makes the GPUs idle without hurting their neighbours. */
export const quiesce: Phase<ProvisionContext> = {
  name: "quiesce",
  timeoutMs: 90_000,
  retry: RETRY_FEW,
  probe: async ({ spec, gpus }) => {
    if (spec.gpuUuids.length === 0) return notNeeded("The slice has no GPUs.");
    return gpus.simulated ? notNeeded("Simulated GPUs have no other users.") : NEEDED;
  },
  apply: async ({ spec, gpus, driver, signal }) => await gpus.quiesce(spec.gpuUuids, driver.gpuAccess, signal),
  verify: async () => {},
  undo: async ({ spec, gpus, signal }) => await gpus.restore(spec.gpuUuids, signal),
};
