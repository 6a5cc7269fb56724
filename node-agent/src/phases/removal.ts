import { AppError } from "@hostler/shared/errors.ts";
import type { HostObject, SliceDriver } from "../ports/slice-driver.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "./phase.ts";

/** The phase that removes one object of the driver and reads back that it is gone. */
export function removalPhase(options: {
  readonly name: "force_off" | "unit" | "disk_erase" | "network";
  readonly timeoutMs: number;
  readonly isGate: boolean;
  readonly objectOf: (driver: SliceDriver) => HostObject;
}): Phase<ReleaseContext> {
  const { name, timeoutMs, isGate, objectOf } = options;
  return {
    name,
    timeoutMs,
    isGate,
    retry: RETRY_FEW,
    probe: async ({ driver, slice, signal }) =>
      (await objectOf(driver).inspect(slice, signal)) === "absent" ? notNeeded("Nothing of it is there.") : NEEDED,
    apply: async ({ driver, slice, signal }) => {
      await objectOf(driver).remove(slice, signal);
      return { removed: true };
    },
    verify: async ({ driver, slice, signal }) => {
      const found = await objectOf(driver).inspect(slice, signal);
      if (found !== "absent")
        throw new AppError("command_failed", { detail: `It was removed, but reading it back found it ${found}.` });
    },
    undo: nothing,
  };
}
