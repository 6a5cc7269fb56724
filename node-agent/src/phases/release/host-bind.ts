import { AppError } from "@hostler/shared/errors.ts";
import { NEEDED, noFacts, notNeeded, type Phase, type ReleaseContext, nothing, RETRY_FEW } from "../phase.ts";

/** Gives the GPUs back to the host; one that the slice does not hold is left alone. */
export const hostBind: Phase<ReleaseContext> = {
  name: "host_bind",
  timeoutMs: 60_000,
  retry: RETRY_FEW,
  isGate: true,
  probe: async ({ gpuUuids }) => (gpuUuids.length === 0 ? notNeeded("The slice holds no GPUs.") : NEEDED),
  apply: async ({ gpus, gpuUuids, owner, signal }) => {
    for (const uuid of gpuUuids) await gpus.unbind(uuid, owner, signal);
    return await noFacts();
  },
  verify: async ({ gpus, gpuUuids, owner }) => {
    for (const uuid of gpuUuids) {
      if ((await gpus.ownerOf(uuid)) === owner)
        throw new AppError("gpu_unavailable", {
          detail: `${uuid} was given back, but the host still shows it as the slice's.`,
        });
    }
  },
  undo: nothing,
};
