import { AppError } from "@hostler/shared/errors.ts";
import type { HostObject, SliceDriver } from "../ports/slice-driver.ts";
import { NEEDED, notNeeded, nothing, type Phase, type ReleaseContext, RETRY_FEW } from "./phase.ts";

/** The phase that removes one object of the driver and reads back that it is gone. */
export function removalPhase(options: {
  readonly name: "force_off" | "unit" | "disk_erase" | "network";
  readonly timeoutMs: number;
  readonly isGate: boolean;
  readonly objectOf: (driver: SliceDriver) => HostObject;
  /** What removes it and says more than that it did; `remove` unless given. */
  readonly erase?: (context: ReleaseContext) => Promise<object>;
}): Phase<ReleaseContext> {
  const { name, timeoutMs, isGate, objectOf, erase } = options;
  return {
    name,
    timeoutMs,
    isGate,
    retry: RETRY_FEW,
    probe: async ({ driver, slice, signal }) =>
      (await objectOf(driver).inspect(slice, signal)) === "absent" ? notNeeded("Nothing of it is there.") : NEEDED,
    apply: async (context) => {
      const { driver, slice, signal } = context;
      const said = erase === undefined ? await objectOf(driver).remove(slice, signal) : await erase(context);
      return { removed: true, ...said };
    },
    verify: async ({ driver, slice, signal }) => {
      const found = await objectOf(driver).inspect(slice, signal);
      if (found !== "absent")
        throw new AppError("command_failed", { detail: `It was removed, but reading it back found it ${found}.` });
    },
    undo: nothing,
  };
}
