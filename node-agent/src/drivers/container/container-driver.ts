import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { FindProgram } from "../../host/find-program.ts";
import { inScope, type HostScope } from "../../host/host-scope.ts";
import type { Log } from "../../log.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ImageSource } from "../../ports/image-source.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import type { Facts, SliceDriver, SliceReference, SliceSurvey } from "../../ports/slice-driver.ts";
import { makeImageCache, type ImageCache } from "../images/image-cache.ts";
import { ROOT_FILE_SYSTEMS } from "../images/image-files.ts";
import { requireDiskRoom } from "../images/disk-room.ts";
import { refused } from "../images/image-header.ts";
import type { AddressPool } from "../network/addresses.ts";
import { listLinkSlices } from "../network/host-links.ts";
import type { NetworkPolicy } from "../network/network-policy.ts";
import { requirePorts } from "../network/prepare-rules.ts";
import { FILE_ERASURE } from "../slices/erase-file.ts";
import { listSliceFolders } from "../slices/slice-folder.ts";
import { capabilityOf, decideRuntime, requireRuntime, type RuntimeVerdict } from "./capability.ts";
import { containerPaths, type ContainerPlaces } from "./container-paths.ts";
import { makeDisk } from "./disk.ts";
import { isContainerOf, makeMachine } from "./machine.ts";
import { LINK_OWNER, makeNetwork } from "./network.ts";
import { makeRootFileSystems, type RootFileSystems } from "./root-file-system.ts";
import { makeSeed } from "./seed.ts";
import { sliceOfProcess } from "./slice-processes.ts";

export interface ContainerDriverDeps {
  readonly places: ContainerPlaces;
  readonly commands: HostCommands;
  readonly scope: HostScope;
  readonly supervisor: ProcessSupervisor;
  readonly images: ImageSource;
  /** Shared with the other drivers of this host; made from `images` where this one is alone. */
  readonly imageCache?: ImageCache;
  /** The pool of the whole host: other drivers cut from the same range. */
  readonly addresses: AddressPool;
  readonly policy: NetworkPolicy;
  readonly clock: Clock;
  readonly log: Log;
  /** Whether the GPUs that a spec names are made up: nothing of them can be shown inside. */
  readonly areGpusSimulated: boolean;
  /** GiB free where disks are kept. */
  readonly diskFreeGib: () => Promise<number>;
  readonly find?: FindProgram;
  readonly readyTimeoutMs?: number;
}

/** Containers: a root file system on a disk of its own, in name spaces of its own, behind the same rules as a virtual machine. */
export function makeContainerDriver(deps: ContainerDriverDeps): SliceDriver {
  const { places, commands } = deps;
  const host = inScope(commands, deps.scope);
  const images = deps.imageCache ?? makeImageCache({ ...deps, folder: places.imagesDir, source: deps.images });
  const folder = join(places.imagesDir, ROOT_FILE_SYSTEMS);
  const bases = makeRootFileSystems({ folder, images, commands, host, scope: deps.scope });
  const verdict = makeVerdict(deps, host);
  const disk = makeDisk({ places, commands, bases });
  const machine = makeMachine({ ...deps, host, runtime: async (signal) => requireRuntime(await verdict(signal)) });
  return {
    name: "container",
    gpuAccess: "device_nodes",
    compute: { kind: "shared" },
    capability: async (signal) => capabilityOf(await verdict(signal)),
    preflight: async (spec, signal) => {
      const { runtime } = requireRuntime(await verdict(signal));
      await requirePorts(commands, spec, signal);
      return { runtime: runtime.name, ...(await preflight(deps, { bases, images }, spec)) };
    },
    image: {
      isCached: async (spec) => (await bases.find(spec.image)) !== null,
      create: async (spec, { signal, report }) => {
        const isKnown = (await bases.find(spec.image)) !== null;
        const { bytes, entries } = await bases.fetch(spec.image, { signal, report });
        return { contentBytes: bytes, entries, source: isKnown ? "cache" : "download" };
      },
    },
    disk,
    diskErasure: FILE_ERASURE,
    seed: makeSeed(deps),
    network: makeNetwork(deps),
    machine,
    listSlices: async (signal) => await listSlices(deps, signal),
    survey: async (slice, signal) => ({
      machine: await surveyMachine(deps, slice),
      hasDisk: (await disk.inspect(slice, signal)) === "present",
    }),
  };
}

/** Found out once for the life of the agent, and again while nothing works: an operator may just have installed it. */
function makeVerdict(deps: ContainerDriverDeps, host: HostCommands): (signal: AbortSignal) => Promise<RuntimeVerdict> {
  let known: RuntimeVerdict | null = null;
  const hasLimits = deps.scope.command.length > 0;
  const find = deps.find === undefined ? {} : { find: deps.find };
  return async (signal) => {
    if (known?.chosen) return known;
    known = await decideRuntime({ host, runDir: deps.places.runDir, hasLimits, ...find }, signal);
    return known;
  };
}

async function preflight(
  deps: ContainerDriverDeps,
  { bases, images }: { readonly bases: RootFileSystems; readonly images: ImageCache },
  spec: SliceSpec,
): Promise<Facts> {
  if (spec.image.format !== "tar")
    throw refused(spec.image.name, "it is a disk for virtual machines", "Import a root file system as tar.");
  if (spec.gpuUuids.length > 0 && deps.areGpusSimulated)
    deps.log.info(
      { gpus: spec.gpuUuids.length },
      "the slice holds its GPUs; they are not visible inside the container",
    );
  // Packed and unpacked; how large it is unpacked is only known when it is here, and is checked again then.
  const imageBytes = (await bases.find(spec.image)) === null ? 3 * spec.image.sizeBytes : 0;
  const freeGib = await requireDiskRoom({ ...deps, stateDir: deps.places.stateDir, images }, imageBytes);
  return { diskFreeGib: freeGib };
}

/** A container without its process is none, whatever it left; one whose first process is not there yet may be starting. */
async function surveyMachine(deps: ContainerDriverDeps, slice: SliceReference): Promise<SliceSurvey["machine"]> {
  const found = await deps.supervisor.inspect(containerPaths(deps.places, slice).name);
  if (found.state !== "running") return "none";
  return (await isContainerOf(slice, found.pid)) ? "running" : "unclear";
}

/** From the folders, the processes and the interfaces: any of the three may have outlived the others. */
async function listSlices(deps: ContainerDriverDeps, signal: AbortSignal): Promise<readonly SliceReference[]> {
  const found = [
    ...(await listSliceFolders(deps.places)),
    ...(await listContainers(deps.supervisor)),
    ...(await listLinkSlices(deps.commands, LINK_OWNER, signal)),
  ];
  return [...new Map(found.map((slice) => [`${slice.allocationId}.${slice.generation}`, slice])).values()];
}

async function listContainers(supervisor: ProcessSupervisor): Promise<SliceReference[]> {
  const states = await Promise.all((await supervisor.names()).map(supervisor.inspect));
  const slices = await Promise.all(
    states.map(async (found) => (found.state === "running" ? await sliceOfProcess(found.pid) : null)),
  );
  return slices.filter((slice) => slice !== null);
}
