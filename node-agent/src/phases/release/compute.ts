import { NEEDED, noFacts, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "../phase.ts";

/** Memory and CPUs go back to the host's account; the row itself stays until the slots are proven clean. */
export const computeBack: Phase<ReleaseContext> = {
  name: "compute",
  timeoutMs: 3 * 60_000,
  retry: RETRY_FEW,
  probe: async ({ ledger, owner }) =>
    (await ledger.read())[owner] === undefined ? notNeeded("The host holds nothing for the slice.") : NEEDED,
  apply: async ({ ledger, owner, compute, signal }) => {
    await compute?.giveBack(owner, signal);
    await ledger.update(owner, { vcpus: 0, memoryMib: 0 });
    return await noFacts();
  },
  verify: nothing,
  undo: nothing,
};
