import { AppError } from "@hostler/shared/errors.ts";
import { NEEDED, nothing, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/** Asks the host before anything is promised or touched; reads only, so it always runs. */
export const preflight: Phase<ProvisionContext> = {
  name: "preflight",
  // A driver may prove its accelerator by booting, once a boot of the host.
  timeoutMs: 60_000,
  retry: RETRY_FEW,
  probe: async () => NEEDED,
  apply: async (context) => {
    const { spec, driver, gpus, signal } = context;
    const capability = await driver.capability(signal);
    if (!capability.usable) throw new AppError("driver_unavailable", { detail: capability.note });
    if (spec.gpuUuids.length > 0) await gpus.requireAssignable(spec.gpuUuids, driver.gpuAccess, signal);
    // Checked in words here, so that nobody meets it in the middle of building.
    if (driver.compute.kind === "placed") await context.compute?.check({ ...spec, gpuAddresses: [] });
    const found = await driver.preflight(spec, signal);
    return { accelerator: capability.accelerator, gpusSimulated: gpus.simulated, ...found };
  },
  verify: nothing,
  undo: nothing,
};
