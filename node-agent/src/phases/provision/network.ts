import { driverObjectPhase } from "../driver-object.ts";

export const network = driverObjectPhase({
  name: "network",
  timeoutMs: 30_000,
  isSideBySide: true,
  objectOf: (driver) => driver.network,
});
