import { noFacts, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

/** Proof that GPU memory is clean; needs a real GPU and a program that writes all of it. */
export const scrub: Phase<ReleaseContext> = {
  name: "scrub",
  timeoutMs: 300_000,
  retry: RETRY_NEVER,
  probe: async ({ gpuUuids }) =>
    notNeeded(gpuUuids.length === 0 ? "The slice had no GPUs." : "Simulated GPUs have no memory."),
  apply: noFacts,
  verify: nothing,
  undo: nothing,
};
