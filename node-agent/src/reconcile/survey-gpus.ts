import { readdir, readlink } from "node:fs/promises";
import { basename, join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { makePassthrough } from "../gpus/passthrough/make-passthrough.ts";
import { readSimulatedOwners } from "../gpus/simulated.ts";
import { VFIO_DRIVER } from "../host/pci/bind-driver.ts";
import { makeSysfsWriter } from "../host/pci/guarded-write.ts";
import { isPciAddress, type PciRoots } from "../host/pci/pci-roots.ts";
import { readDevice } from "../host/pci/read-devices.ts";
import type { HostCommands } from "../ports/host-commands.ts";
import type { StateFiles } from "../ports/state-files.ts";
import type { GpuSurvey, HeldGpu } from "./gpu-survey.ts";

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
  const writer = makeSysfsWriter(deps);
  const passthrough = makePassthrough({ ...deps, writer, listGpus: async () => [] });
  return {
    listBound: async () => {
      const recorded = (await passthrough.listBound()).map(({ gpu, owner, addresses, fault }): HeldGpu => ({
        uuid: gpu.uuid,
        owner,
        addresses,
        fault,
      }));
      const known = new Set(recorded.flatMap(({ addresses }) => addresses));
      const stuck = (await writer.stuckWrites()).map(({ address }) => address).filter((address) => !known.has(address));
      const strangers = (await readVfioGpus(deps.roots)).filter((address) => !known.has(address));
      return [
        ...recorded,
        ...[...new Set(stuck)].map((address) => nobodys(address, `A write to ${address} hangs in the kernel.`)),
        ...strangers.map((address) => nobodys(address, `VFIO has ${address}, and no record says for whom.`)),
        ...(await simulated(deps)),
      ];
    },
    listMig: async () => [],
  };
}

function nobodys(address: string, fault: string): HeldGpu {
  return { uuid: null, owner: null, addresses: [address], fault };
}

async function simulated({ files }: SurveyDeps): Promise<HeldGpu[]> {
  const owners = Object.entries(await readSimulatedOwners(files));
  return owners.map(([uuid, owner]) => ({ uuid, owner, addresses: [], fault: null }));
}

/** The addresses of NVIDIA GPUs that VFIO has; other makers' devices are no concern of ours. None where there is no PCI. */
async function readVfioGpus(roots: PciRoots): Promise<string[]> {
  const folder = join(roots.sysfs, "bus/pci/devices");
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  const found: string[] = [];
  for (const address of names.filter(isPciAddress)) {
    const driver = await readlink(join(folder, address, "driver")).then(basename, () => null);
    if (driver !== VFIO_DRIVER) continue;
    const device = await readDevice(roots, address);
    if (device?.vendor === NVIDIA && device.class.startsWith(DISPLAY_CLASS)) found.push(address);
  }
  return found.toSorted();
}
