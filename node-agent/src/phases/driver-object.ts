import { AppError } from "@hostler/shared/errors.ts";
import type { HostObject, SliceDriver } from "../ports/slice-driver.ts";
import { DONE, NEEDED, type Phase, type ProvisionContext, RETRY_FEW } from "./phase.ts";

/** What an operator looks with when the programs that made a thing said that all is well. */
const LOOKS = {
  disk: "the slice's folder in the agent's state",
  seed: "the slice's folder in the agent's state",
  network: "ip link show; nft list tables",
  start: "the logs in the slice's folder in the agent's state; dmesg",
} as const;

/** The phase that makes one object of the driver: disk, seed, network, machine. Made means present with its facts in the journal. */
export function driverObjectPhase(options: {
  readonly name: "disk" | "seed" | "network" | "start";
  readonly timeoutMs: number;
  readonly isSideBySide: boolean;
  readonly objectOf: (driver: SliceDriver) => HostObject;
}): Phase<ProvisionContext> {
  const { name, timeoutMs, isSideBySide, objectOf } = options;
  return {
    name,
    timeoutMs,
    isSideBySide,
    retry: RETRY_FEW,
    probe: async ({ driver, slice, facts, signal }) => {
      if (facts[name] === undefined) return NEEDED;
      return (await objectOf(driver).inspect(slice, signal)) === "present" ? DONE : NEEDED;
    },
    apply: async (context) => await objectOf(context.driver).create(context.spec, context),
    verify: async ({ driver, slice, signal }) => {
      const found = await objectOf(driver).inspect(slice, signal);
      if (found !== "present")
        // What was made a moment ago and is not whole any more has ended since, which may pass.
        throw new AppError(name === "start" ? "machine_exited" : "command_failed", {
          detail: `The ${name} was made, but reading it back found it ${found}. See what is there: ${LOOKS[name]}`,
        });
    },
    undo: async ({ driver, slice, signal }) => {
      await objectOf(driver).remove(slice, signal);
      const found = await objectOf(driver).inspect(slice, signal);
      if (found !== "absent")
        throw new AppError("command_failed", {
          detail: `The ${name} was removed, but reading it back found it ${found}.`,
        });
    },
  };
}
