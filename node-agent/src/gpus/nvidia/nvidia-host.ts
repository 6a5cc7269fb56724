import { AppError, describeError, isAppError } from "@hostler/shared/errors.ts";
import { cardOf, placeOf } from "@hostler/shared/gpu-slots.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { PciRoots } from "../../host/pci/pci-roots.ts";
import type { GpuAccess, GpuHost } from "../../ports/gpu-host.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import type { Passthrough } from "../passthrough/make-passthrough.ts";
import { type DeviceNodeSlots, makeDeviceNodeSlots } from "./device-node-slots.ts";
import { examineGpus, readPciGpus, type ExamineDeps } from "./examine-gpus.ts";
import type { DriverGpu, DriverGpus } from "./driver-gpus.ts";
import type { FabricSlots } from "./fabric-slots.ts";
import type { GpuResets } from "./gpu-resets.ts";
import { slotHeldBy } from "../slot-refused.ts";
import { type MigPool, type MigSlotOf } from "./mig-pool.ts";
import { quiesceGpus, restoreGpus } from "./quiesce-gpus.ts";
import type { SlotHolds } from "./slot-holds.ts";

export interface NvidiaHostDeps {
  readonly commands: HostCommands;
  readonly roots: PciRoots;
  readonly driver: DriverGpus;
  readonly reader: ExamineDeps["reader"];
  readonly passthrough: Passthrough;
  readonly files: StateFiles;
  readonly holds: SlotHolds;
  readonly mig: MigPool;
  readonly resets: GpuResets;
  /** Null where no Fabric Manager hands out partitions. */
  readonly fabric: FabricSlots | null;
  readonly hasToolkit: boolean;
}

/** NVIDIA's GPUs: whole ones for virtual machines by VFIO, whole ones and MIG instances for containers by the host's driver. */
export function makeNvidiaHost(deps: NvidiaHostDeps): GpuHost {
  const { driver, fabric } = deps;
  const list = async (signal: AbortSignal): Promise<readonly Gpu[]> => await listGpus(deps, signal);
  const nodes = makeDeviceNodeSlots(deps);
  return {
    simulated: false,
    hasFabric: fabric !== null,
    list,
    sample: driver.sample,
    requireAssignable: async (slotIds, access, signal) =>
      await requireAssignable(deps, { slotIds, access, present: await requireReadable(list, signal) }, signal),
    examine: async (slotIds, before, signal) => {
      const present = slotIds.length === 0 ? [] : await list(signal);
      const addresses = new Map(present.map((gpu) => [gpu.uuid, gpu.pciAddress]));
      return await examineGpus({ ...deps, addresses }, { slotIds, before }, signal);
    },
    quiesce: async (slotIds, access, signal) => {
      if (fabric !== null) await fabric.noteModules(await readModules(driver, signal));
      return access === "vfio" ? await quiesceGpus(deps, slotIds, signal) : {};
    },
    restore: async (slotIds, signal) => await restoreGpus(deps, slotIds, signal),
    ...instancesOf(deps, nodes),
    ...holdingOf(deps, nodes),
    // The driver clears what it frees, and VFIO's users are cleared by the reset; that nothing is left is shown by neither.
    proveClean: async () => "unproven",
    joinFabric: async (slotIds, owner, signal) => (await fabric?.join(slotIds, owner, signal)) ?? {},
    leaveFabric: async (owner, signal) => await fabric?.leave(owner, signal),
  };
}

/** Whoever asks for GPUs of a host that cannot read its own is sent to another one. */
async function requireReadable(list: GpuHost["list"], signal: AbortSignal): Promise<readonly Gpu[]> {
  return await list(signal).catch((error: unknown) => {
    if (!isAppError(error, "command_failed") && !isAppError(error, "command_timeout")) throw error;
    throw new AppError("gpu_host_unfit", { detail: `The GPUs cannot be read: ${describeError(error)}`, cause: error });
  });
}

async function requireAssignable(
  { passthrough }: NvidiaHostDeps,
  wanted: { readonly slotIds: readonly string[]; readonly access: GpuAccess; readonly present: readonly Gpu[] },
  signal: AbortSignal,
): Promise<void> {
  for (const slotId of wanted.slotIds) {
    const gpu = requirePresent(wanted.present, slotId);
    if (wanted.access === "device_nodes") continue;
    if (placeOf(slotId) !== null)
      throw new AppError("driver_unavailable", {
        detail: `${slotId} is a MIG instance, and VFIO gives whole GPUs: ask for a container (hostler.dev/driver: container).`,
      });
    await passthrough.requireViable(gpu, signal);
  }
}

function instancesOf({ mig }: NvidiaHostDeps, nodes: DeviceNodeSlots): Pick<GpuHost, "carve" | "uncarve"> {
  return {
    carve: async (slotIds, owner, signal) => {
      const instances: Record<string, unknown> = {};
      for (const slot of slotIds.flatMap(partOf)) instances[slot.slotId] = await mig.carve(slot, owner, signal);
      return { instances };
    },
    uncarve: async (slotIds, owner, signal) => {
      for (const slot of slotIds.flatMap(partOf)) {
        await mig.destroy(slot, owner, signal);
        await nodes.forget(slot.slotId, owner);
      }
    },
  };
}

function holdingOf(
  deps: NvidiaHostDeps,
  nodes: DeviceNodeSlots,
): Pick<GpuHost, "ownerOf" | "bind" | "unbind" | "reset"> {
  const { passthrough, mig, resets } = deps;
  return {
    ownerOf: async (slotId) => (await nodes.ownerOf(slotId)) ?? (await passthrough.ownerOf(cardOf(slotId))),
    bind: async (slotId, { owner, access }, signal) => {
      if (access === "device_nodes") return await nodes.bind(slotId, owner, signal);
      const held = await nodes.holdOf(slotId);
      if (held !== null) throw slotHeldBy(slotId, held.owner);
      await passthrough.bind(slotId, owner, signal);
      const bound = (await passthrough.listBound()).find((each) => each.gpu.uuid === slotId);
      return { pciAddresses: bound?.addresses ?? [], deviceNodes: [], files: [] };
    },
    unbind: async (slotId, owner, signal) => {
      await nodes.unbind(slotId, owner);
      if (placeOf(slotId) === null) await passthrough.unbind(slotId, owner, signal);
    },
    reset: async (slotId, signal) => {
      const hold = await nodes.holdOf(slotId);
      const [part] = partOf(slotId);
      if (part !== undefined) {
        if (hold !== null) await mig.destroy(part, hold.owner, signal);
        return "MIG instance destroyed";
      }
      const kind = hold === null ? await passthrough.reset(slotId, signal) : await resetByDriver(deps, slotId, signal);
      await resets.note(slotId);
      return kind;
    },
  };
}

/** Empty for a whole GPU. */
function partOf(slotId: string): readonly MigSlotOf[] {
  const place = placeOf(slotId);
  return place === null ? [] : [{ slotId, gpuUuid: cardOf(slotId), place }];
}

function requirePresent(present: readonly Gpu[], slotId: string): Gpu {
  const gpu = present.find(({ uuid }) => uuid === cardOf(slotId));
  if (gpu === undefined)
    throw new AppError("gpu_unavailable", {
      detail: `This host does not show ${slotId}.`,
      facts: { gpuUuids: [slotId] },
    });
  return gpu;
}

/** What the driver shows and what slices have by VFIO. A GPU that neither knows, but the bus does, makes the reading fail. */
async function listGpus(deps: NvidiaHostDeps, signal: AbortSignal): Promise<readonly Gpu[]> {
  const bound = await deps.passthrough.listBound();
  const shown = await deps.driver.list(signal);
  if (shown.length === 0) {
    const onBus = await readPciGpus(deps.roots);
    const lost = onBus?.filter(({ driver }) => driver === "nvidia") ?? [];
    if (lost.length > 0)
      throw new AppError("gpu_host_unfit", {
        detail: `The driver says that it has no GPUs, and the bus shows ${lost.map(({ address }) => address).join(", ")} in its hands: see dmesg, then reboot the host.`,
      });
  }
  const all = new Map<string, DriverGpu>();
  for (const { gpu, fault } of bound) all.set(gpu.uuid, { ...gpu, healthy: fault === null, fault, isMigOn: false });
  for (const gpu of shown) all.set(gpu.uuid, gpu);
  // The driver's own numbers move up when VFIO takes a GPU; the places on the bus do not.
  const sorted = [...all.values()].toSorted((one, other) => (one.pciAddress < other.pciAddress ? -1 : 1));
  const gpus = [];
  for (const [index, { isMigOn, ...gpu }] of sorted.entries())
    gpus.push(await withParts(deps, { gpu: { ...gpu, index }, isMigOn }, signal));
  return gpus;
}

async function withParts(
  { mig, holds }: NvidiaHostDeps,
  { gpu, isMigOn }: { readonly gpu: Gpu; readonly isMigOn: boolean },
  signal: AbortSignal,
): Promise<Gpu> {
  if (!gpu.healthy) return gpu;
  if (!mig.has(gpu) || !gpu.migCapable) {
    const fault =
      "It is in MIG mode, and this host gives it whole: start the agent with --mig, or switch the mode off.";
    return isMigOn ? { ...gpu, healthy: false, fault } : gpu;
  }
  // Given whole before it was given to MIG: it is divided when it is back.
  if ((await holds.read(gpu.uuid)) !== null) return gpu;
  const offer = await mig.offerOf(gpu.uuid, signal);
  return "fault" in offer ? { ...gpu, healthy: false, fault: offer.fault } : { ...gpu, mig: { profiles: [...offer] } };
}

/** Of a GPU that no program has open; the driver refuses others. */
async function resetByDriver({ driver }: NvidiaHostDeps, uuid: string, signal: AbortSignal): Promise<string> {
  try {
    await driver.change(["--gpu-reset", "-i", uuid], signal);
    return "nvidia-smi --gpu-reset";
  } catch (error) {
    if (!isAppError(error, "command_failed")) throw error;
    const code = /In use by another client/.test(error.message) ? "gpu_in_use" : "gpu_unavailable";
    const detail = `${uuid} cannot be reset: ${describeError(error)}`.slice(0, 1500);
    throw new AppError(code, { detail, facts: { gpuUuids: [uuid] }, cause: error });
  }
}

async function readModules(driver: DriverGpus, signal: AbortSignal): Promise<ReadonlyMap<string, number>> {
  const answers = [...(await driver.ask("platform.module_id", signal))];
  return new Map(answers.flatMap(([uuid, text]) => (/^\d+$/.test(text) ? [[uuid, Number(text)]] : [])));
}
