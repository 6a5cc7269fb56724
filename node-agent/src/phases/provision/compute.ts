import { AppError } from "@hostler/shared/errors.ts";
import type { ComputeShare } from "../../journal/host-ledger.ts";
import { DONE, NEEDED, notNeeded, nothing, type Phase, type ProvisionContext, RETRY_NEVER } from "../phase.ts";

/** Left to the host itself; a guest must not push its host into swapping. */
const HOST_MEMORY_MIB = 256;

/**
 * Memory and CPUs for the guest. Where the operator set none aside it is a check of what is free now; else hugepages and CPUs
 * near the GPUs are taken in the ledger's name, and `start` finds the share in this phase's facts.
 */
export const compute: Phase<ProvisionContext> = {
  name: "compute",
  // The kernel may have to move a lot of memory for large pages.
  timeoutMs: 5 * 60_000,
  retry: RETRY_NEVER,
  probe: async ({ driver, slice, signal }) => {
    if (driver.compute.kind === "none") return notNeeded(driver.compute.why);
    // A machine that runs already uses the memory that would be looked for.
    return (await driver.machine.inspect(slice, signal)) === "present" ? DONE : NEEDED;
  },
  apply: async (context) => {
    const share = await takeShare(context);
    // Pages that are taken are not among what is available any more.
    if (share !== null && share.pages.length > 0) return { share };
    const availableMemoryMib = await checkMemory(context);
    return { availableMemoryMib, ...(share === null ? {} : { share }) };
  },
  verify: nothing,
  undo: async ({ compute: host, owner, signal }) => await host?.giveBack(owner, signal),
};

async function takeShare(context: ProvisionContext): Promise<ComputeShare | null> {
  const { spec, driver, owner, signal, compute: host } = context;
  if (host === undefined || driver.compute.kind !== "placed") return null;
  return await host.take(owner, { ...spec, gpuAddresses: await gpuAddresses(context) }, signal);
}

async function checkMemory({ spec, driver, slice, availableMemoryMib, signal }: ProvisionContext): Promise<number> {
  const availableMib = await availableMemoryMib();
  if (availableMib >= spec.memoryMib + HOST_MEMORY_MIB) return availableMib;
  // What an interrupted start left may use the memory; it ends before the machine is started anew.
  if ((await driver.machine.inspect(slice, signal)) === "partial") return availableMib;
  const detail = `The slice needs ${spec.memoryMib} MiB, the host has ${availableMib} MiB available and keeps ${HOST_MEMORY_MIB} MiB.`;
  throw new AppError("capacity_unavailable", { detail });
}

async function gpuAddresses({ spec, gpus, signal }: ProvisionContext): Promise<readonly string[]> {
  if (spec.gpuUuids.length === 0) return [];
  return (await gpus.list(signal)).filter(({ uuid }) => spec.gpuUuids.includes(uuid)).map((gpu) => gpu.pciAddress);
}
