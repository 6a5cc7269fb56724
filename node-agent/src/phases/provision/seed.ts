import { driverObjectPhase } from "../driver-object.ts";

export const seed = driverObjectPhase({
  name: "seed",
  timeoutMs: 30_000,
  isSideBySide: true,
  objectOf: (driver) => driver.seed,
});
