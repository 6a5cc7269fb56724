import { NEEDED, noFacts, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

export const commit: Phase<ProvisionContext> = {
  name: "commit",
  timeoutMs: 10_000,
  retry: RETRY_NEVER,
  probe: async () => NEEDED,
  apply: async ({ seal }) => {
    await seal();
    return await noFacts();
  },
  verify: nothing,
  undo: nothing,
};
