import { AppError } from "@hostler/shared/errors.ts";
import { DONE, NEEDED, notNeeded, type Phase, type ProvisionContext, RETRY_FEW } from "../phase.ts";

/** Takes the GPUs out of the host's hands for this slice. */
export const bind: Phase<ProvisionContext> = {
  name: "bind",
  timeoutMs: 60_000,
  retry: RETRY_FEW,
  probe: async (context) => {
    if (context.spec.gpuUuids.length === 0) return notNeeded("The slice has no GPUs.");
    return context.facts["bind"] !== undefined && (await isBound(context)) ? DONE : NEEDED;
  },
  apply: async ({ spec, gpus, owner, signal }) => {
    for (const uuid of spec.gpuUuids) await gpus.bind(uuid, owner, signal);
    return { gpuUuids: spec.gpuUuids };
  },
  verify: async (context) => {
    if (!(await isBound(context)))
      throw new AppError("gpu_unavailable", { detail: "A GPU was bound, but the host does not show it as ours." });
  },
  undo: async ({ spec, gpus, owner, signal }) => {
    for (const uuid of spec.gpuUuids) {
      // The tenant's machine may have run on it: whoever gets it next must not find what that left.
      if ((await gpus.ownerOf(uuid)) === owner) await gpus.reset(uuid, signal);
      await gpus.unbind(uuid, owner, signal);
    }
  },
};

async function isBound({ spec, gpus, owner }: ProvisionContext): Promise<boolean> {
  const owners = await Promise.all(spec.gpuUuids.map(async (uuid) => await gpus.ownerOf(uuid)));
  return owners.every((found) => found === owner);
}
