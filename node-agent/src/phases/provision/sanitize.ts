import { placeOf } from "@hostler/shared/gpu-slots.ts";
import { DONE, NEEDED, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/**
 * Resets the GPUs before they are attached, also when the last release already did: the host may have crashed in
 * between. Done only counts while the machine that got them lives; a machine that died leaves the GPUs in an unknown state.
 */
export const sanitize: Phase<ProvisionContext> = {
  name: "sanitize",
  timeoutMs: 60_000,
  retry: RETRY_FEW,
  probe: async ({ spec, driver, slice, facts, signal }) => {
    if (spec.gpuUuids.length === 0) return notNeeded("The slice has no GPUs.");
    if (spec.gpuUuids.every((slotId) => placeOf(slotId) !== null)) return notNeeded("Its MIG instances are new.");
    return facts["sanitize"] !== undefined && (await driver.machine.inspect(slice, signal)) === "present"
      ? DONE
      : NEEDED;
  },
  apply: async ({ spec, gpus, signal }) => {
    const resets: Record<string, string> = {};
    for (const slotId of spec.gpuUuids) if (placeOf(slotId) === null) resets[slotId] = await gpus.reset(slotId, signal);
    return { resets };
  },
  verify: nothing,
  undo: nothing,
};
