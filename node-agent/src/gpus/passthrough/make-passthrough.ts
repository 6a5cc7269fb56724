import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { AppError, type ErrorCode, isAppError } from "@hostler/shared/errors.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import { readBootId } from "../../host/facts.ts";
import { bindFunctions, readFormerState, releaseFunctions, VFIO_DRIVER } from "../../host/pci/bind-driver.ts";
import { type GroupRefusal, type GroupVerdict, judgeGroup } from "../../host/pci/iommu-groups.ts";
import type { PciDeps } from "../../host/pci/pci-deps.ts";
import { isDeviceFault } from "../../host/pci/pci-roots.ts";
import { readDevice, readDevices } from "../../host/pci/read-devices.ts";
import { resetDevice } from "../../host/pci/reset-device.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import { slotHeldBy, slotRefused } from "../slot-refused.ts";
import { makePassthroughRecords, type PassthroughRecord } from "./passthrough-records.ts";

/** A GPU in a slice's hands, as its record and the host show it. */
export interface BoundGpu {
  readonly owner: string;
  readonly gpu: PassthroughRecord["gpu"];
  readonly iommuGroup: number;
  /** What a machine must be given, the GPU first. */
  readonly addresses: readonly string[];
  /** Why it cannot be used; null when all is well. */
  readonly fault: string | null;
}

/** Whole GPUs for slices, by VFIO. Everything may run any number of times: what a crash left half done, the next run ends. */
export interface Passthrough {
  /** Rejects with why this GPU could not be bound, as far as that can be told without touching it. */
  requireViable(gpu: Pick<Gpu, "uuid" | "pciAddress">, signal: AbortSignal): Promise<void>;
  /** Null when no slice has the GPU. A record of an earlier boot still counts: its slice was never released. */
  ownerOf(uuid: string): Promise<string | null>;
  /** Rejects with `gpu_unavailable` when another owner has it, when it is in use, or when its IOMMU group holds a foreign device. */
  bind(uuid: string, owner: string, signal: AbortSignal): Promise<void>;
  /** Back to the drivers that it had; a GPU that the owner does not have is left alone. */
  unbind(uuid: string, owner: string, signal: AbortSignal): Promise<void>;
  /** Resets a GPU that a slice has and no process uses. Resolves with the kind of reset. */
  reset(uuid: string, signal: AbortSignal): Promise<string>;
  listBound(): Promise<readonly BoundGpu[]>;
}

export interface PassthroughDeps extends PciDeps {
  readonly files: StateFiles;
  /** The GPUs that their own driver shows now: the source of what is recorded of one before it is bound. */
  readonly listGpus: (signal: AbortSignal) => Promise<readonly Gpu[]>;
}

const CODE_OF_REFUSAL: Readonly<Record<GroupRefusal, ErrorCode>> = {
  unknown: "gpu_unavailable",
  // The host lacks something, not the GPU.
  no_iommu: "driver_unavailable",
  boot_display: "gpu_unavailable",
  virtual_functions: "gpu_unavailable",
  foreign_device: "gpu_unavailable",
};

export function makePassthrough(deps: PassthroughDeps): Passthrough {
  const records = makePassthroughRecords(deps.files);
  const inTurn = oneAtATime();
  /** One change at a time: two slices must not both find a GPU free, and a group is judged while nothing moves. */
  const change = async <T>(uuid: string, work: () => Promise<T>): Promise<T> =>
    await inTurn(async () => await blaming(uuid, work));
  return {
    requireViable: async ({ uuid, pciAddress }) => {
      if ((await records.read(uuid)) === null) await requireGroup(deps, { uuid, pciAddress });
    },
    ownerOf: async (uuid) => (await records.read(uuid))?.owner ?? null,
    bind: async (uuid, owner, signal) =>
      await change(uuid, async () => {
        const held = await records.read(uuid);
        if (held !== null && held.owner !== owner) throw slotHeldBy(uuid, held.owner);
        const bootId = await readBootId(deps.roots.proc);
        const isCurrent = held !== null && held.bootId === bootId;
        const record = isCurrent ? held : { ...(await describe(deps, uuid, signal)), owner, bootId };
        // On disk before the first write to the host: from here on whatever happens can be undone.
        if (!isCurrent) await records.write(record);
        await bindFunctions(deps, addressesOf(record), signal);
      }),
    unbind: async (uuid, owner, signal) =>
      await change(uuid, async () => {
        const record = await records.read(uuid);
        if (record === null || record.owner !== owner) return;
        // A restart of the host gave the drivers back, and may have moved the card to another address.
        if (record.bootId === (await readBootId(deps.roots.proc))) await releaseFunctions(deps, record.former, signal);
        await records.remove(uuid);
      }),
    reset: async (uuid, signal) =>
      await change(uuid, async () => {
        signal.throwIfAborted();
        const record = await records.read(uuid);
        if (record === null || record.bootId !== (await readBootId(deps.roots.proc)))
          throw slotRefused(uuid, "It is not bound to VFIO and is not reset.");
        // A bind or a release that was broken off leaves it with its own driver, and nobody resets it under that.
        await bindFunctions(deps, addressesOf(record), signal);
        return await resetAll(deps, addressesOf(record));
      }),
    listBound: async () => {
      const bootId = await readBootId(deps.roots.proc);
      const stuck = new Set((await deps.writer.stuckWrites()).map((write) => write.address));
      const bound: BoundGpu[] = [];
      for (const record of await records.list()) {
        const fault =
          record.bootId === bootId ? await faultOf(deps, record, stuck) : "The host was restarted under it.";
        const { owner, gpu, iommuGroup } = record;
        bound.push({ owner, gpu, iommuGroup, addresses: addressesOf(record), fault });
      }
      return bound;
    },
  };
}

/** The GPU as its driver shows it now, with all that must move with it. */
async function describe(
  deps: PassthroughDeps,
  uuid: string,
  signal: AbortSignal,
): Promise<Omit<PassthroughRecord, "owner" | "bootId">> {
  const found = (await deps.listGpus(signal)).find((gpu) => gpu.uuid === uuid);
  if (found === undefined) throw slotRefused(uuid, "It is not on this host.");
  const { healthy, fault, ...gpu } = found;
  if (!healthy) throw slotRefused(uuid, fault ?? "It is not healthy.");
  const verdict = await requireGroup(deps, gpu);
  const former = [];
  for (const device of verdict.functions) former.push(await readFormerState(deps, device, signal));
  return { gpu, iommuGroup: verdict.group, former };
}

async function requireGroup(
  deps: PciDeps,
  { uuid, pciAddress }: Pick<Gpu, "uuid" | "pciAddress">,
): Promise<Extract<GroupVerdict, { state: "isolated" }>> {
  const verdict = judgeGroup(await readDevices(deps.roots), pciAddress);
  if (verdict.state !== "refused") return verdict;
  throw new AppError(CODE_OF_REFUSAL[verdict.reason], {
    detail: verdict.why,
    facts: { gpuUuids: [uuid], addresses: [pciAddress] },
  });
}

/** The GPU must be reset. Its companions are reset where they can be: a sound function often knows no method, and keeps nothing. */
async function resetAll(deps: PciDeps, [gpu = "", ...companions]: readonly string[]): Promise<string> {
  const { kind } = await resetDevice(deps, gpu);
  for (const address of companions) {
    const methods = (await readDevice(deps.roots, address))?.resetMethods ?? [];
    if (methods.length === 0) continue;
    await resetDevice(deps, address).catch((error: unknown) => {
      if (!isAppError(error, "gpu_unavailable")) throw error;
    });
  }
  return kind;
}

async function faultOf(deps: PciDeps, record: PassthroughRecord, stuck: ReadonlySet<string>): Promise<string | null> {
  for (const address of addressesOf(record)) {
    if (stuck.has(address)) return `A write to ${address} hangs in the kernel.`;
    const device = await readDevice(deps.roots, address);
    if (device === null) return `${address} is not on the PCI bus any more.`;
    if (device.driver !== VFIO_DRIVER) return `${address} is half bound: it has ${device.driver ?? "no driver"}.`;
  }
  return null;
}

/** What happens to a PCI function happens to a GPU: quarantine goes by its UUID. */
async function blaming<T>(uuid: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isDeviceFault(error) || "gpuUuids" in error.facts) throw error;
    throw new AppError(error.code, {
      detail: error.message,
      facts: { ...error.facts, gpuUuids: [uuid] },
      cause: error.cause,
    });
  }
}

function addressesOf(record: PassthroughRecord): readonly string[] {
  return record.former.map((state) => state.address);
}
