import { NEEDED, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

/** What is kept of the slice after it is gone: the digest of its journal goes into the signed result. */
export const evidence: Phase<ReleaseContext> = {
  name: "evidence",
  timeoutMs: 10_000,
  retry: RETRY_NEVER,
  probe: async () => NEEDED,
  apply: async ({ journalDigest }) => ({ journalSha256: await journalDigest() }),
  verify: nothing,
  undo: nothing,
};
