import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import { cardOf, placeOf } from "@hostler/shared/gpu-slots.ts";
import { type ListedGpu, parseGpuListing } from "../gpus/mig/parse-mig-devices.ts";
import { makeSlotHolds, type SlotHolds } from "../gpus/nvidia/slot-holds.ts";
import { makePassthrough } from "../gpus/passthrough/make-passthrough.ts";
import { makePassthroughRecords } from "../gpus/passthrough/passthrough-records.ts";
import { readSimulatedOwners } from "../gpus/simulated.ts";
import { VFIO_DRIVER } from "../host/pci/bind-driver.ts";
import { makeSysfsWriter } from "../host/pci/guarded-write.ts";
import { isPciAddress, type PciRoots } from "../host/pci/pci-roots.ts";
import { type PciFunction, readDevice } from "../host/pci/read-devices.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { StateFiles } from "../ports/state-files.ts";
import type { GpuSurvey, HeldGpu, HeldInstance } from "./gpu-survey.ts";
import { namesIn } from "./sources/names-in.ts";

interface SurveyDeps {
  readonly files: StateFiles;
  readonly commands: HostCommands;
  readonly clock: Clock;
  readonly roots: PciRoots;
}

const NVIDIA = "0x10de";
const DISPLAY_CLASS = "0x03";
const LIST_TIMEOUT_MS = 30_000;

/** The GPUs of this host by their records, by who drives them, and by what their driver shows of instances. */
export function surveyGpus(deps: SurveyDeps): GpuSurvey {
  const holds = makeSlotHolds(deps.files);
  return {
    listBound: async () => [...(await bound(deps)), ...(await held(holds)), ...(await simulated(deps))],
    listMig: async (signal) => await instances(deps, holds, signal),
  };
}

/** Whole GPUs in containers: their own driver keeps them. */
async function held(holds: SlotHolds): Promise<HeldGpu[]> {
  return (await holds.list())
    .filter(({ slotId }) => placeOf(slotId) === null)
    .map(({ slotId, owner }) => ({ uuid: slotId, owner, addresses: [], fault: null }));
}

/** Those that slices have, and those that the driver shows beside them. */
async function instances(deps: SurveyDeps, holds: SlotHolds, signal: AbortSignal): Promise<HeldInstance[]> {
  const mine = (await holds.list()).filter(({ slotId }) => placeOf(slotId) !== null);
  const known = new Set(mine.flatMap(({ instance }) => instance?.migUuid ?? []));
  // One that is being made has no UUID yet, and is not to be taken for a stranger.
  const atWork = new Set(mine.filter(({ instance }) => instance === null).map(({ slotId }) => cardOf(slotId)));
  const shown = await listDevices(deps.commands, signal);
  const strangers = shown.flatMap(({ uuid: gpuUuid, devices }) =>
    atWork.has(gpuUuid)
      ? []
      : devices
          .filter(({ uuid }) => !known.has(uuid))
          .map(({ uuid, profileName }) => ({ gpuUuid, instance: `${profileName} (${uuid})`, owner: null })),
  );
  return [...mine.map(({ slotId, owner }) => ({ gpuUuid: cardOf(slotId), instance: slotId, owner })), ...strangers];
}

async function listDevices(commands: HostCommands, signal: AbortSignal): Promise<readonly ListedGpu[]> {
  try {
    const { stdout, exitCode } = await commands.run(["nvidia-smi", "-L"], { timeoutMs: LIST_TIMEOUT_MS, signal });
    // Slices may have all GPUs, and then the driver has none.
    return exitCode !== 0 && stdout.startsWith("No devices") ? [] : parseGpuListing(stdout);
  } catch (error) {
    if (isAppError(error, "driver_unavailable")) return [];
    throw error;
  }
}

async function bound(deps: SurveyDeps): Promise<HeldGpu[]> {
  const devices = await readNvidiaGpus(deps.roots);
  const hasRecords = (await makePassthroughRecords(deps.files).list()).length > 0;
  // What hangs is looked for among all processes: not on hosts that have nothing that could.
  if (devices.length === 0 && !hasRecords) return [];
  const writer = makeSysfsWriter(deps);
  const stuck = await writer.stuckWrites();
  const seen = { ...writer, stuckWrites: async () => await Promise.resolve(stuck) };
  const passthrough = makePassthrough({ ...deps, writer: seen, listGpus: async () => [] });
  const recorded = (await passthrough.listBound()).map(({ gpu, owner, addresses, fault }): HeldGpu => ({
    uuid: gpu.uuid,
    owner,
    addresses,
    fault,
  }));
  const known = new Set(recorded.flatMap(({ addresses }) => addresses));
  const hanging = new Set(stuck.map(({ address }) => address).filter((address) => !known.has(address)));
  const strangers = devices.filter(({ driver, address }) => driver === VFIO_DRIVER && !known.has(address));
  return [
    ...recorded,
    ...[...hanging].map((address) => nobodys(address, `A write to ${address} hangs in the kernel.`)),
    ...strangers.map(({ address }) => nobodys(address, `VFIO has ${address}, and no record says for whom.`)),
  ];
}

function nobodys(address: string, fault: string): HeldGpu {
  return { uuid: null, owner: null, addresses: [address], fault };
}

async function simulated({ files }: SurveyDeps): Promise<HeldGpu[]> {
  const owners = Object.entries(await readSimulatedOwners(files));
  return owners.map(([uuid, owner]) => ({ uuid, owner, addresses: [], fault: null }));
}

/** Other makers' devices are no concern of ours. None where there is no PCI. */
async function readNvidiaGpus(roots: PciRoots): Promise<PciFunction[]> {
  const folder = join(roots.sysfs, "bus/pci/devices");
  const found: PciFunction[] = [];
  for (const address of (await namesIn(folder)).filter(isPciAddress).toSorted()) {
    const vendor = await readFile(join(folder, address, "vendor"), "utf8").catch(() => "");
    if (vendor.trim() !== NVIDIA) continue;
    const device = await readDevice(roots, address);
    if (device?.class.startsWith(DISPLAY_CLASS) === true) found.push(device);
  }
  return found;
}
