import { AppError } from "@hostler/shared/errors.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

/** Makes the GPUs idle without hurting their neighbours. Preflight lets no real GPU come this far yet. */
export const quiesce: Phase<ProvisionContext> = {
  name: "quiesce",
  timeoutMs: 90_000,
  retry: RETRY_NEVER,
  probe: async ({ spec, gpus }) => {
    if (spec.gpuUuids.length === 0) return notNeeded("The slice has no GPUs.");
    return gpus.simulated ? notNeeded("Simulated GPUs have no other users.") : NEEDED;
  },
  apply: async ({ gpus }) => {
    throw new AppError("driver_unavailable", { detail: gpus.unassignable ?? "Real GPUs cannot be made idle yet." });
  },
  verify: nothing,
  undo: nothing,
};
