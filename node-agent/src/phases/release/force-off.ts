import { removalPhase } from "../removal.ts";

/** Ends the machine. Nothing below may run while it lives: its GPUs and its disk are still in use. */
export const forceOff = removalPhase({
  name: "force_off",
  timeoutMs: 60_000,
  isGate: true,
  objectOf: (driver) => driver.machine,
});
