import { removalPhase } from "../removal.ts";

export const networkOff = removalPhase({
  name: "network",
  timeoutMs: 30_000,
  isGate: false,
  objectOf: (driver) => driver.network,
});
