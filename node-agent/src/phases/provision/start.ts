import { driverObjectPhase } from "../driver-object.ts";

export const start = driverObjectPhase({ name: "start", timeoutMs: 60_000, objectOf: (driver) => driver.machine });
