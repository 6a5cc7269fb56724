import { AppError } from "@hostler/shared/errors.ts";
import { DONE, NEEDED, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

/** Left to the host itself; a guest must not push its host into swapping. */
const HOST_MEMORY_MIB = 256;

/** Memory for the guest. Nothing is pinned yet (no hugepages), so it is a check of what is free now, and nothing to undo. */
export const compute: Phase<ProvisionContext> = {
  name: "compute",
  timeoutMs: 10_000,
  retry: RETRY_NEVER,
  probe: async ({ driver, slice, signal }) => {
    if (driver.name === "mock") return notNeeded("The mock driver uses no memory.");
    // A machine that runs already uses the memory that would be looked for.
    return (await driver.machine.inspect(slice, signal)) === "absent" ? NEEDED : DONE;
  },
  apply: async ({ spec, availableMemoryMib }) => {
    const availableMib = await availableMemoryMib();
    if (availableMib < spec.memoryMib + HOST_MEMORY_MIB) {
      const detail = `The slice needs ${spec.memoryMib} MiB, the host has ${availableMib} MiB available and keeps ${HOST_MEMORY_MIB} MiB.`;
      throw new AppError("capacity_unavailable", { detail });
    }
    return { availableMemoryMib: availableMib };
  },
  verify: nothing,
  undo: nothing,
};
