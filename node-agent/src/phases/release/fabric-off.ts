import { noFacts, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

export const fabricOff: Phase<ReleaseContext> = {
  name: "fabric_off",
  timeoutMs: 60_000,
  retry: RETRY_NEVER,
  probe: async () => notNeeded("The slice joined no NVLink fabric."),
  apply: noFacts,
  verify: nothing,
  undo: nothing,
};
