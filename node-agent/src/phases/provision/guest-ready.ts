import * as z from "zod";
import { NEEDED, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

const seenSchema = z.looseObject({
  devices: z.array(z.string()).default([]),
  devicesInGuest: z.enum(["seen", "unproven"]).optional(),
});

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
  summary: (facts) => {
    const { devices, devicesInGuest } = seenSchema.parse(facts);
    if (devicesInGuest === undefined) return null;
    return devicesInGuest === "seen"
      ? `Seen from inside: ${devices.join(" ")}.`
      : `The guest said nothing of its devices: that it sees ${devices.join(" ")} is unproven.`;
  },
  undo: nothing,
};
