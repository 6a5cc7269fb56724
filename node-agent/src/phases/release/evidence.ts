import { NEEDED, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

/** What is kept of the slice after it is gone: the digest of its journal and what happened to its machine go into the signed result. */
export const evidence: Phase<ReleaseContext> = {
  name: "evidence",
  timeoutMs: 10_000,
  retry: RETRY_NEVER,
  probe: async () => NEEDED,
  apply: async ({ driver, slice, journalDigest }) => {
    const machineEvents = (await driver.machine.history?.(slice)) ?? [];
    return { journalSha256: await journalDigest(), ...(machineEvents.length > 0 ? { machineEvents } : {}) };
  },
  verify: nothing,
  undo: nothing,
};
