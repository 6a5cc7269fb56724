import { removalPhase } from "../removal.ts";

/** What was around the machine: unit and sockets. The driver removes them with the machine; this reads the host back. */
export const unit = removalPhase({
  name: "unit",
  timeoutMs: 30_000,
  isGate: true,
  objectOf: (driver) => driver.machine,
});
