import { AppError } from "@hostler/shared/errors.ts";
import { NEEDED, type Phase, type ReleaseContext, nothing, RETRY_FEW } from "../phase.ts";

/** The seed and the tenant's spec hold keys and user data. */
export const secrets: Phase<ReleaseContext> = {
  name: "secrets",
  timeoutMs: 30_000,
  retry: RETRY_FEW,
  probe: async () => NEEDED,
  apply: async ({ driver, slice, signal, eraseSpec }) => {
    await driver.seed.remove(slice, signal);
    await eraseSpec();
    return { erased: true };
  },
  verify: async ({ driver, slice, signal }) => {
    const found = await driver.seed.inspect(slice, signal);
    if (found !== "absent")
      throw new AppError("command_failed", { detail: `The seed was erased, but reading it back found it ${found}.` });
  },
  undo: nothing,
};
