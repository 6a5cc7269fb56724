import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_NEVER } from "../phase.ts";

/** How long a guest may take to shut down before it is ended. */
const POWER_DOWN_MS = 30_000;

/** Asks politely. A guest that does not answer is no failure: the next phase ends it. */
export const powerDown: Phase<ReleaseContext> = {
  name: "power_down",
  timeoutMs: POWER_DOWN_MS + 10_000,
  retry: RETRY_NEVER,
  probe: async ({ driver, slice, signal }) =>
    (await driver.machine.inspect(slice, signal)) === "absent" ? notNeeded("There is no machine.") : NEEDED,
  apply: async ({ driver, slice, signal }) => ({
    graceful: await driver.machine.powerDown(slice, { timeoutMs: POWER_DOWN_MS, signal }),
  }),
  verify: nothing,
  undo: nothing,
};
