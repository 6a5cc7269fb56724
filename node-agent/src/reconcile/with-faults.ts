import type { Gpu } from "@hostler/shared/node-protocol.ts";

const FAULT_CHARACTERS_MAX = 500;

/** The GPUs with what reconciliation has against handing them out: the control plane keeps an unhealthy one back. Pure. */
export function withFaults(gpus: readonly Gpu[], faults: ReadonlyMap<string, string>): Gpu[] {
  return gpus.map((gpu) => {
    const fault = faults.get(gpu.uuid);
    // What the GPU itself says is wrong comes first.
    if (fault === undefined || !gpu.healthy) return gpu;
    return { ...gpu, healthy: false, fault: fault.slice(0, FAULT_CHARACTERS_MAX) };
  });
}
