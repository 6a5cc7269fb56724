import { noFacts, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

export const uncarve: Phase<ReleaseContext> = {
  name: "uncarve",
  timeoutMs: 60_000,
  retry: RETRY_NEVER,
  probe: async () => notNeeded("The slice had no MIG instances."),
  apply: noFacts,
  verify: nothing,
  undo: nothing,
};
