import { NEEDED, noFacts, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

/** Memory and CPUs go back to the host's account; the row itself stays until the slots are proven clean. */
export const computeBack: Phase<ReleaseContext> = {
  name: "compute",
  timeoutMs: 10_000,
  retry: RETRY_NEVER,
  probe: async ({ ledger, owner }) =>
    (await ledger.read())[owner] === undefined ? notNeeded("The host holds nothing for the slice.") : NEEDED,
  apply: async ({ ledger, owner }) => {
    await ledger.update(owner, { vcpus: 0, memoryMib: 0 });
    return await noFacts();
  },
  verify: nothing,
  undo: nothing,
};
