import { noFacts, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

/** Undo of `quiesce`, which changes no setting yet. */
export const persist: Phase<ReleaseContext> = {
  name: "persist",
  timeoutMs: 60_000,
  retry: RETRY_NEVER,
  probe: async () => notNeeded("No GPU setting was changed."),
  apply: noFacts,
  verify: nothing,
  undo: nothing,
};
