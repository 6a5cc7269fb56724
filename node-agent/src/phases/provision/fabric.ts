import { NEEDED, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/** Connects the slice's GPUs on the NVSwitch board, and no others with them. */
export const fabric: Phase<ProvisionContext> = {
  name: "fabric",
  timeoutMs: 180_000,
  retry: RETRY_FEW,
  probe: async ({ spec, gpus, driver }) => {
    if (spec.gpuUuids.length === 0) return notNeeded("The slice has no GPUs.");
    if (!gpus.hasFabric) return notNeeded("The host has no NVSwitch board to divide.");
    return driver.gpuAccess === "vfio" ? NEEDED : notNeeded("The slice uses the host's own fabric.");
  },
  apply: async ({ spec, gpus, owner, signal }) => await gpus.joinFabric(spec.gpuUuids, owner, signal),
  verify: nothing,
  undo: async ({ gpus, owner, signal }) => await gpus.leaveFabric(owner, signal),
};
