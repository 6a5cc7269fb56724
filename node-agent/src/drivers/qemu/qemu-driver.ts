import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { readBootId } from "../../host/facts.ts";
import { findProgram } from "../../host/find-program.ts";
import { missingProgram, PROGRAM_PACKAGES } from "../../host/host-commands.ts";
import type { ProcessSupervisor } from "../../host/process-supervisor.ts";
import type { Log } from "../../log.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ImageSource } from "../../ports/image-source.ts";
import type { DriverCapability, SliceDriver } from "../../ports/slice-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import { decideAccelerator, type Accelerator, type AcceleratorVerdict } from "./accelerator.ts";
import { makeDisk } from "./disk.ts";
import { makeImageCache } from "./image-cache.ts";
import { makeMachine } from "./machine.ts";
import { makeNetwork, type NetworkMode } from "./network.ts";
import { makeSeed } from "./seed.ts";
import { listSliceFolders } from "./slice-folder.ts";
import type { QemuPlaces } from "./slice-paths.ts";

export interface QemuDriverDeps {
  readonly places: QemuPlaces;
  readonly files: StateFiles;
  readonly commands: HostCommands;
  readonly supervisor: ProcessSupervisor;
  readonly images: ImageSource;
  readonly clock: Clock;
  readonly log: Log;
  readonly network: NetworkMode;
  readonly forcedAccelerator: Accelerator | null;
  /** GiB free where disks are kept. */
  readonly diskFreeGib: () => Promise<number>;
}

const ALWAYS = ["qemu-system-x86_64", "qemu-img", "genisoimage", "ssh", "ssh-keygen", "socat"] as const;
/** Left free on the host's disk: the journal and the logs must still fit. */
const DISK_RESERVE_GIB = 1;

/** Virtual machines by QEMU, with KVM where it works and by emulation where it does not. */
export function makeQemuDriver(deps: QemuDriverDeps): SliceDriver {
  const images = makeImageCache({
    folder: join(deps.places.stateDir, "images"),
    source: deps.images,
    commands: deps.commands,
  });
  const accelerator = async (signal: AbortSignal): Promise<AcceleratorVerdict> =>
    await decideAccelerator({ ...deps, bootId: await readBootId() }, { forced: deps.forcedAccelerator, signal });
  const machine = makeMachine({ ...deps, accelerator });
  return {
    name: "qemu",
    capability: async (signal) => await capability(deps, accelerator, signal),
    preflight: async (spec) => {
      const missing = await missingPrograms(deps);
      if (missing[0] !== undefined) throw missingProgram(missing[0]);
      if (spec.gpuUuids.length > 0)
        deps.log.info(
          { gpus: spec.gpuUuids.length },
          "the slice holds its GPUs; they are not visible inside the machine",
        );
      const freeGib = await deps.diskFreeGib();
      if (freeGib <= DISK_RESERVE_GIB)
        throw new AppError("disk_full", {
          detail: `${freeGib} GiB are free under ${deps.places.stateDir}; at least ${DISK_RESERVE_GIB} GiB must stay free.`,
        });
      return { network: deps.network, diskFreeGib: freeGib };
    },
    image: {
      isCached: async (spec) => await images.isCached(spec.image),
      create: async (spec, { signal, report }) => await images.fetch(spec.image, { signal, report }),
    },
    disk: makeDisk({ ...deps, images }),
    seed: makeSeed({ ...deps, addressOf: async () => await Promise.resolve({ address: null, gateway: null }) }),
    network: makeNetwork({ ...deps, mode: deps.network }),
    machine,
    listSlices: async () => await listSliceFolders(deps.places),
  };
}

async function capability(
  deps: QemuDriverDeps,
  accelerator: (signal: AbortSignal) => Promise<AcceleratorVerdict>,
  signal: AbortSignal,
): Promise<DriverCapability> {
  const missing = await missingPrograms(deps);
  if (missing.length > 0) {
    const packages = [...new Set(missing.map((program) => PROGRAM_PACKAGES[program] ?? program))].join(" ");
    return {
      usable: false,
      accelerator: "none",
      note: `Missing: ${missing.join(", ")}. Install with: apt-get install ${packages}`,
    };
  }
  const verdict = await accelerator(signal);
  const network = deps.network === "tap" ? "tap network" : "QEMU user network";
  return {
    usable: true,
    accelerator: verdict.accelerator,
    note: verdict.reason === null ? `KVM, ${network}` : `Emulated (${verdict.reason}), ${network}`.slice(0, 500),
  };
}

async function missingPrograms(deps: Pick<QemuDriverDeps, "network">): Promise<string[]> {
  const wanted = deps.network === "tap" ? [...ALWAYS, "ip", "nft"] : ALWAYS;
  const found = await Promise.all(wanted.map(findProgram));
  return wanted.filter((_, index) => found[index] === null);
}
