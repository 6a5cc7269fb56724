import { driverObjectPhase } from "../driver-object.ts";

export const start = driverObjectPhase({
  name: "start",
  timeoutMs: 60_000,
  isSideBySide: false,
  objectOf: (driver) => driver.machine,
});
