import { NEEDED, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

/**
 * Waits for proof from inside: that QEMU runs does not mean that the guest is up. The driver knows how long its images take.
 * Never taken from the journal: the machine may have been made anew since, and a guest that is up answers at once.
 */
export const guestReady: Phase<ProvisionContext> = {
  name: "guest_ready",
  timeoutMs: 10 * 60_000,
  retry: RETRY_NEVER,
  probe: async () => NEEDED,
  apply: async (context) => await context.driver.machine.waitReady(context.spec, context),
  verify: nothing,
  undo: nothing,
};
