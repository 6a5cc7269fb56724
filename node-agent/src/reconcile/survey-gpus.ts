import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { makePassthrough } from "../gpus/passthrough/make-passthrough.ts";
import { makePassthroughRecords } from "../gpus/passthrough/passthrough-records.ts";
import { readSimulatedOwners } from "../gpus/simulated.ts";
import { VFIO_DRIVER } from "../host/pci/bind-driver.ts";
import { makeSysfsWriter } from "../host/pci/guarded-write.ts";
import { isPciAddress, type PciRoots } from "../host/pci/pci-roots.ts";
import { type PciFunction, readDevice } from "../host/pci/read-devices.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { StateFiles } from "../ports/state-files.ts";
import type { GpuSurvey, HeldGpu } from "./gpu-survey.ts";
import { namesIn } from "./sources/names-in.ts";

interface SurveyDeps {
  readonly files: StateFiles;
  readonly commands: HostCommands;
  readonly clock: Clock;
  readonly roots: PciRoots;
}

const NVIDIA = "0x10de";
const DISPLAY_CLASS = "0x03";

/** The GPUs of this host by their records and by who drives them. MIG instances are not asked for: nobody is given one yet. */
export function surveyGpus(deps: SurveyDeps): GpuSurvey {
  return {
    listBound: async () => [...(await bound(deps)), ...(await simulated(deps))],
    listMig: async () => [],
  };
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
