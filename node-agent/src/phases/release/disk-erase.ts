import { removalPhase } from "../removal.ts";

export const diskErase = removalPhase({
  name: "disk_erase",
  timeoutMs: 120_000,
  isGate: false,
  objectOf: (driver) => driver.disk,
});
