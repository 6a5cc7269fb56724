import { NEEDED, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

/** Marks the slice as going, and writes down which GPUs must come back: later phases erase where that was known from. */
export const drain: Phase<ReleaseContext> = {
  name: "drain",
  timeoutMs: 10_000,
  retry: RETRY_NEVER,
  probe: async () => NEEDED,
  apply: async ({ ledger, owner, gpuUuids }) => {
    await ledger.update(owner, { state: "releasing" });
    return { gpuUuids };
  },
  verify: nothing,
  undo: nothing,
};
