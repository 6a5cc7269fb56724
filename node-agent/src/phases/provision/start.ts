import { driverObjectPhase } from "../driver-object.ts";

export const start = driverObjectPhase({
  name: "start",
  // The driver knows how long a machine may take; one of terabytes has all of them filled or pinned first.
  timeoutMs: 20 * 60_000,
  isSideBySide: false,
  objectOf: (driver) => driver.machine,
});
