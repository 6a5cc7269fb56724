import { noFacts, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

/** Creates MIG instances; slices get whole GPUs until MIG arrives. */
export const carve: Phase<ProvisionContext> = {
  name: "carve",
  timeoutMs: 60_000,
  retry: RETRY_NEVER,
  probe: async ({ spec }) =>
    notNeeded(spec.gpuUuids.length === 0 ? "The slice has no GPUs." : "The slice has whole GPUs, no MIG instances."),
  apply: noFacts,
  verify: nothing,
  undo: nothing,
};
