import { AppError } from "@hostler/shared/errors.ts";
import { DONE, NEEDED, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

/** Takes every exclusive thing in one step, in the host's own ledger. */
export const reserve: Phase<ProvisionContext> = {
  name: "reserve",
  timeoutMs: 10_000,
  retry: RETRY_NEVER,
  probe: async ({ ledger, owner, fence }) => ((await ledger.read())[owner]?.fence === fence ? DONE : NEEDED),
  apply: async ({ ledger, owner, slice, spec, fence }) => {
    const { driver, gpuUuids, vcpus, memoryMib, diskGib } = spec;
    await ledger.reserve(owner, { ...slice, driver, fence, state: "reserved", gpuUuids, vcpus, memoryMib, diskGib });
    return { gpuUuids, vcpus, memoryMib, diskGib };
  },
  verify: async ({ ledger, owner }) => {
    if ((await ledger.read())[owner] === undefined)
      throw new AppError("command_failed", { detail: "The ledger does not show the row that was written." });
  },
  undo: async ({ ledger, owner }) => await ledger.remove(owner),
};
