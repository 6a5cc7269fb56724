import { AppError } from "@hostler/shared/errors.ts";
import { holdsAll } from "../gpu-holds.ts";
import { DONE, NEEDED, notNeeded, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/**
 * Takes the GPUs out of the host's hands for this slice. Done only counts while the machine that got them lives: a boot of the
 * host in between has given them back to their drivers.
 */
export const bind: Phase<ProvisionContext> = {
  name: "bind",
  timeoutMs: 60_000,
  retry: RETRY_FEW,
  probe: async (context) => {
    const { spec, facts, driver, slice, signal } = context;
    if (spec.gpuUuids.length === 0) return notNeeded("The slice has no GPUs.");
    if (facts["bind"] === undefined || !(await holdsAll(context, spec.gpuUuids))) return NEEDED;
    return (await driver.machine.inspect(slice, signal)) === "present" ? DONE : NEEDED;
  },
  apply: async ({ spec, gpus, owner, driver, signal }) => {
    const grants = [];
    for (const slotId of spec.gpuUuids)
      grants.push(await gpus.bind(slotId, { owner, access: driver.gpuAccess }, signal));
    return {
      gpuUuids: spec.gpuUuids,
      pciAddresses: grants.flatMap(({ pciAddresses }) => pciAddresses),
      // Slots of one driver share nodes and libraries.
      deviceNodes: [...new Set(grants.flatMap(({ deviceNodes }) => deviceNodes))],
      files: [...new Map(grants.flatMap(({ files }) => files).map((file) => [file.target, file])).values()],
    };
  },
  verify: async (context) => {
    if (!(await holdsAll(context, context.spec.gpuUuids)))
      throw new AppError("gpu_unavailable", { detail: "A GPU was bound, but the host does not show it as ours." });
  },
  undo: async ({ spec, gpus, owner, signal }) => {
    for (const slotId of spec.gpuUuids) {
      // The tenant's machine may have run on it: whoever gets it next must not find what that left.
      if ((await gpus.ownerOf(slotId)) === owner) await gpus.reset(slotId, signal);
      await gpus.unbind(slotId, owner, signal);
    }
  },
};
