import { driverObjectPhase } from "../driver-object.ts";

export const disk = driverObjectPhase({
  name: "disk",
  timeoutMs: 120_000,
  isSideBySide: true,
  objectOf: (driver) => driver.disk,
});
