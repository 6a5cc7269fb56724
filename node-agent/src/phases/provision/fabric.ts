import { noFacts, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

/** Joins an NVSwitch partition; no host with NVSwitch is supported yet. */
export const fabric: Phase<ProvisionContext> = {
  name: "fabric",
  timeoutMs: 60_000,
  retry: RETRY_NEVER,
  probe: async ({ spec }) =>
    notNeeded(spec.gpuUuids.length === 0 ? "The slice has no GPUs." : "The host has no NVSwitch."),
  apply: noFacts,
  verify: nothing,
  undo: nothing,
};
