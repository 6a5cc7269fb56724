import { removalPhase } from "../removal.ts";

export const diskErase = removalPhase({
  name: "disk_erase",
  // A terabyte at the speed of an ordinary drive; what was overwritten before a break is not overwritten again.
  timeoutMs: 3_600_000,
  isGate: false,
  objectOf: (driver) => driver.disk,
  erase: async ({ driver, slice, signal }) => await driver.disk.erase(slice, signal),
});
