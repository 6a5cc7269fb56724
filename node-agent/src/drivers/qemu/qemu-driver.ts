import { readFile } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { exists } from "../../host/exists.ts";
import { readBootId } from "../../host/facts.ts";
import { findProgram, type FindProgram } from "../../host/find-program.ts";
import { missingProgram, PROGRAM_PACKAGES } from "../../host/host-commands.ts";
import { HOST_ROOTS } from "../../host/pci/pci-roots.ts";
import type { Log } from "../../log.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ImageSource } from "../../ports/image-source.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { DriverCapability, Facts, SliceDriver, SliceReference, SliceSurvey } from "../../ports/slice-driver.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import { decideAccelerator, type Accelerator, type AcceleratorVerdict } from "./accelerator.ts";
import { makeAddressPool, type AddressPool } from "../network/addresses.ts";
import { erasureMethod, makeDisk } from "./disk.ts";
import { makeHostImages } from "./host-images.ts";
import { requireDiskRoom } from "../images/disk-room.ts";
import { refused } from "../images/image-header.ts";
import type { ImageCache } from "../images/image-cache.ts";
import { parseMachineName } from "./machine-argv.ts";
import { makeMachine, type QemuMachine } from "./machine.ts";
import { makeMachineWatch, type MachineWatch } from "./machine-watch.ts";
import type { NetworkPolicy } from "../network/network-policy.ts";
import { listTapSlices, makeNetwork, requireNetwork, type NetworkMode } from "./network.ts";
import { checkFirmware, FIRMWARE_FOLDER, PLAIN_PLATFORM, platformOf, type PlatformDefaults } from "./platform.ts";
import { makeSeed } from "./seed.ts";
import { listSliceFolders } from "../slices/slice-folder.ts";
import { slicePaths, type QemuPlaces } from "../slices/slice-paths.ts";
import type { Volumes } from "../volumes/volumes.ts";

export interface QemuDriverDeps {
  readonly places: QemuPlaces;
  readonly files: StateFiles;
  readonly commands: HostCommands;
  readonly supervisor: ProcessSupervisor;
  readonly images: ImageSource;
  /** Shared with the other drivers of this host; made from `images` where this one is alone. */
  readonly imageCache?: ImageCache;
  readonly clock: Clock;
  readonly log: Log;
  readonly network: NetworkMode;
  readonly policy: NetworkPolicy;
  readonly forcedAccelerator: Accelerator | null;
  /** New disks are encrypted with keys that are in memory only. */
  readonly encryptDisks?: boolean;
  /** Where new disks keep what guests write; null, or left out, in their own files. */
  readonly volumes?: Volumes | null;
  /** GiB free where disks are kept. */
  readonly diskFreeGib: () => Promise<number>;
  /** Shared with the other drivers of this host; made from its file where this one is alone. */
  readonly addresses?: AddressPool;
  /** What machines have unless their labels say otherwise; the plain one unless given. */
  readonly platform?: PlatformDefaults;
  /** Where the UEFI firmware lies; for tests. */
  readonly firmwareFolder?: string;
  readonly find?: FindProgram;
  readonly readyTimeoutMs?: number;
}

const ALWAYS = ["qemu-system-x86_64", "qemu-img", "genisoimage", "ssh", "ssh-keygen", "socat"] as const;
const FOR_TAP = ["ip", "nft"] as const;
const FOR_VOLUMES = ["lvs", "lvcreate", "lvchange", "lvremove"] as const;
const VSOCK_DEVICE = "/dev/vhost-vsock";

/** Virtual machines by QEMU, with KVM where it works and by emulation where it does not. */
export function makeQemuDriver(deps: QemuDriverDeps): SliceDriver {
  const { places, commands } = deps;
  const images = deps.imageCache ?? makeHostImages({ ...deps, stateDir: places.stateDir });
  const addresses = deps.addresses ?? makeAddressPool(deps);
  const accelerator = async (signal: AbortSignal): Promise<AcceleratorVerdict> =>
    await decideAccelerator(
      { ...deps, runDir: places.runDir, bootId: await readBootId() },
      { forced: deps.forcedAccelerator, signal },
    );
  const areEncrypted = deps.encryptDisks === true;
  const { volumes = null } = deps;
  const disk = makeDisk({ places, commands, images, areEncrypted, volumes });
  let areAllThere = false;
  /** Asked until all are there: a program that goes later says so itself. */
  const missing = async (): Promise<readonly string[]> => {
    if (areAllThere) return [];
    const names = await missingPrograms(deps);
    areAllThere = names.length === 0;
    return names;
  };
  const watch = makeMachineWatch(deps);
  const platform = deps.platform ?? PLAIN_PLATFORM;
  const firmwareFolder = deps.firmwareFolder ?? FIRMWARE_FOLDER;
  const { sysfs } = HOST_ROOTS;
  const machine = makeMachine({ ...deps, addresses, accelerator, watch, platform, firmwareFolder, sysfs });
  return {
    name: "qemu",
    gpuAccess: "vfio",
    compute: { kind: "placed" },
    capability: async (signal) => await capability(deps, { missing: await missing(), accelerator }, signal),
    preflight: async (spec, signal) => {
      const [first] = await missing();
      if (first !== undefined) throw missingProgram(first);
      await requireNetwork({ commands, mode: deps.network, policy: deps.policy }, spec, signal);
      await volumes?.requireRoom(signal);
      await checkPlatform(deps, platformOf(spec, platform), firmwareFolder);
      return await preflight(deps, images, spec);
    },
    image: {
      isCached: async (spec) => await images.isCached(spec.image),
      create: async (spec, { signal, report }) => ({ ...(await images.fetch(spec.image, { signal, report })) }),
    },
    disk,
    diskErasure: erasureMethod({ areEncrypted, onVolumes: volumes !== null }),
    seed: makeSeed({ places, commands, addresses, mode: deps.network }),
    network: makeNetwork({ places, commands, addresses, policy: deps.policy, mode: deps.network }),
    machine,
    listSlices: async (signal) => await listSlices(deps, signal),
    survey: async (slice, signal) => ({
      machine: await surveyMachine(deps, { machine, watch }, slice),
      hasDisk: (await disk.inspect(slice, signal)) === "present",
    }),
  };
}

async function preflight(deps: QemuDriverDeps, images: ImageCache, spec: SliceSpec): Promise<Facts> {
  if (spec.image.format === "tar")
    throw refused(spec.image.name, "it is the root file system of a container", "Ask for the container driver.");
  const imageBytes = (await images.isCached(spec.image)) ? 0 : spec.image.sizeBytes;
  const freeGib = await requireDiskRoom({ ...deps, stateDir: deps.places.stateDir, images }, imageBytes);
  return { network: deps.network, diskFreeGib: freeGib };
}

/** In words, before anything is made: what this machine needs beyond the plain one. */
async function checkPlatform(
  deps: QemuDriverDeps,
  { firmware, hasTpm, hasVsock }: PlatformDefaults,
  firmwareFolder: string,
): Promise<void> {
  if (firmware === "uefi") await checkFirmware(firmwareFolder);
  if (hasTpm && (await (deps.find ?? findProgram)("swtpm")) === null) throw missingProgram("swtpm");
  if (hasVsock && !(await exists(VSOCK_DEVICE)))
    throw new AppError("driver_unavailable", {
      detail: `--vsock on, but this host has no ${VSOCK_DEVICE}. Load it with: modprobe vhost_vsock`,
    });
}

async function capability(
  deps: QemuDriverDeps,
  found: {
    readonly missing: readonly string[];
    readonly accelerator: (signal: AbortSignal) => Promise<AcceleratorVerdict>;
  },
  signal: AbortSignal,
): Promise<DriverCapability> {
  const { missing, accelerator } = found;
  if (missing.length > 0) {
    const packages = [...new Set(missing.map((program) => PROGRAM_PACKAGES[program] ?? program))].join(" ");
    const note = `Missing: ${missing.join(", ")}. Install with: apt-get install ${packages}`;
    return { usable: false, accelerator: "none", note };
  }
  const verdict = await accelerator(signal);
  const network = deps.network === "tap" ? "tap network" : "QEMU user network";
  const processor = verdict.reason === null ? "KVM" : `Emulated (${verdict.reason})`;
  return { usable: true, accelerator: verdict.accelerator, note: `${processor}, ${network}`.slice(0, 500) };
}

/** The programs that slices on this kind of network need and this host does not have. */
export async function missingPrograms(deps: Pick<QemuDriverDeps, "network" | "volumes" | "find">): Promise<string[]> {
  const { network, volumes = null } = deps;
  const wanted = [...ALWAYS, ...(network === "tap" ? FOR_TAP : []), ...(volumes === null ? [] : FOR_VOLUMES)];
  const found = await Promise.all(wanted.map(deps.find ?? findProgram));
  return wanted.filter((_, index) => found[index] === null);
}

/**
 * A machine without a process is none, whatever files it left; one whose process lives but does not say that it runs may be busy,
 * or about to be ended by whoever follows it.
 */
async function surveyMachine(
  deps: QemuDriverDeps,
  { machine, watch }: { readonly machine: QemuMachine; readonly watch: MachineWatch },
  slice: SliceReference,
): Promise<SliceSurvey["machine"]> {
  const { name } = slicePaths(deps.places, slice);
  if ((await deps.supervisor.inspect(name)).state !== "running") return "none";
  // An agent that was started anew follows the machines of the one before it from its first look on.
  watch.follow(slice);
  return (await machine.status(slice)) === "running" ? "running" : "unclear";
}

/** From the folders, the processes and the interfaces: any of the three may have outlived the others. */
async function listSlices(deps: QemuDriverDeps, signal: AbortSignal): Promise<readonly SliceReference[]> {
  const found = [
    ...(await listSliceFolders(deps.places)),
    ...(await listMachineSlices(deps.supervisor)),
    ...(deps.network === "tap" ? await listTapSlices(deps.commands, signal) : []),
  ];
  return [...new Map(found.map((slice) => [`${slice.allocationId}.${slice.generation}`, slice])).values()];
}

async function listMachineSlices(supervisor: ProcessSupervisor): Promise<SliceReference[]> {
  const states = await Promise.all((await supervisor.names()).map(supervisor.inspect));
  const slices = await Promise.all(
    states.map(async (found) => {
      if (found.state !== "running") return null;
      return parseMachineName(await readFile(`/proc/${found.pid}/cmdline`, "latin1").catch(() => ""));
    }),
  );
  return slices.filter((slice) => slice !== null);
}
