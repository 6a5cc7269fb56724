import { rename, rm } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { exists } from "../../host/exists.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { CreateContext, DiskErasure, DiskObject, SliceReference } from "../../ports/slice-driver.ts";
import type { ImageCache } from "../images/image-cache.ts";
import { DEVICE_ERASURE, eraseDevice } from "../slices/erase-device.ts";
import { eraseFile, FILE_ERASURE, KEY_ERASURE, KEY_IS_GONE } from "../slices/erase-file.ts";
import { closeSliceFolder, openSliceFolder, translateNoSpace } from "../slices/slice-folder.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "../slices/slice-paths.ts";
import type { Volumes } from "../volumes/volumes.ts";
import { canOpen, destroyDiskKey, writeDiskKey } from "./disk-key.ts";
import { readOverlay } from "./overlay-header.ts";
import { writeOverlay } from "./write-overlay.ts";

const GIB = 1024 ** 3;
const VOLUME_KEY_ERASURE = "destroy the key, remove the volume";

/** How the disks of an agent with these settings are erased, as receipts name it. */
export function erasureMethod(disks: { readonly areEncrypted: boolean; readonly onVolumes: boolean }): string {
  if (disks.onVolumes) return disks.areEncrypted ? VOLUME_KEY_ERASURE : DEVICE_ERASURE;
  return disks.areEncrypted ? KEY_ERASURE : FILE_ERASURE;
}

interface DiskDeps {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly images: ImageCache;
  /** Whether new disks are encrypted. One that is there stays as it was made. */
  readonly areEncrypted?: boolean;
  /** Where new disks keep what guests write; null, or left out, in their own files. One that is there stays as it was made. */
  readonly volumes?: Volumes | null;
}

/**
 * The slice's own disk: what it writes over its base image, which stays as it is. Its tables are a file in the slice's folder; what
 * they tell of lies in the same file, or on a volume of the host. An encrypted one has a key that is in memory only
 * and dies with it; after a boot of the host it is a disk that is lost.
 */
export function makeDisk(deps: DiskDeps): DiskObject {
  const pathsOf = (slice: SliceReference): SlicePaths => slicePaths(deps.places, slice);
  const erase = async (slice: SliceReference, signal: AbortSignal): Promise<DiskErasure> =>
    await eraseDisk(deps, pathsOf(slice), signal);
  return {
    inspect: async (slice, signal) => {
      const paths = pathsOf(slice);
      const found = await isOpenable(deps, paths, signal);
      if (found !== null) return found ? "present" : "partial";
      const remains = [
        draftOf(paths.disk),
        paths.diskKey,
        ...(deps.volumes ? [deps.volumes.devicePath(paths.name)] : []),
      ];
      return (await Promise.all(remains.map(exists))).includes(true) ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const { signal } = context;
      // The base does not go before the header of the disk says that it is needed.
      const isEncrypted = await deps.images.use(
        spec.image,
        { signal, report: () => undefined },
        async ({ virtualSizeBytes }) => await makeWhole(deps, { spec, context, virtualSizeBytes }),
      );
      return { path: pathsOf(spec).disk, base: spec.image.sha256, sizeGib: spec.diskGib, encrypted: isEncrypted };
    },
    erase,
    remove: async (slice, signal) => void (await erase(slice, signal)),
  };
}

const draftOf = (path: string): string => `${path}.new`;

/** Null when there is no disk. One that is no qcow2 file is judged where its chain is. */
async function isOpenable(deps: DiskDeps, paths: SlicePaths, signal: AbortSignal): Promise<boolean | null> {
  try {
    const overlay = await readOverlay(paths.disk);
    const device = overlay?.dataFile ?? null;
    // After a boot it may be there and not show.
    const hasData =
      device === null || (await exists(device)) || (await volumesOf(deps, paths, device).open(paths.name, signal));
    return hasData && (await canOpen(paths, overlay));
  } catch (error) {
    // It may be erased while it is looked at.
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw error;
  }
}

/** Resolves with whether the disk is encrypted. */
async function makeWhole(
  deps: DiskDeps,
  wanted: { readonly spec: SliceSpec; readonly context: CreateContext; readonly virtualSizeBytes: number },
): Promise<boolean> {
  const { spec, context, virtualSizeBytes } = wanted;
  const paths = slicePaths(deps.places, spec);
  if (virtualSizeBytes > spec.diskGib * GIB)
    throw new AppError("capacity_unavailable", {
      detail: `The image ${spec.image.name} needs a disk of ${Math.ceil(virtualSizeBytes / GIB)} GiB; the slice asks for ${spec.diskGib}.`,
    });
  await openSliceFolder(paths, spec, context);
  // A disk that is whole is kept: a machine may run on it already.
  const { signal } = context;
  if (await isOpenable(deps, paths, signal)) return await verifyChain(deps, paths.disk, spec);
  // What cannot be opened any more is nothing.
  await eraseFile(deps.commands, paths.disk, { signal, isCiphertext: true });
  await deps.volumes?.create(paths.name, { bytes: spec.diskGib * GIB, owner: spec }, signal);
  return await makeOverlay(deps, paths, spec);
}

async function makeOverlay(deps: DiskDeps, paths: SlicePaths, spec: SliceSpec): Promise<boolean> {
  const draft = draftOf(paths.disk);
  await rm(draft, { force: true });
  try {
    const passphrase = deps.areEncrypted === true ? await writeDiskKey(paths) : null;
    const backingFormat = spec.image.format === "raw" ? "raw" : "qcow2";
    const backingFile = deps.images.pathOf(spec.image);
    const dataFile = deps.volumes?.devicePath(paths.name) ?? null;
    await writeOverlay(draft, {
      ...{ virtualSizeBytes: spec.diskGib * GIB, backingFile, backingFormat },
      ...{ passphrase, dataFile },
    });
    const isEncrypted = await verifyChain(deps, draft, spec);
    await rename(draft, paths.disk);
    return isEncrypted;
  } catch (error) {
    await rm(draft, { force: true });
    throw translateNoSpace(error, "the disk");
  }
}

/**
 * Reads the disk back: exactly our file over exactly the verified base, which is over nothing, and the size that was asked for.
 * Resolves with whether it is encrypted.
 */
async function verifyChain(deps: DiskDeps, path: string, spec: SliceSpec): Promise<boolean> {
  const overlay = await readOverlay(path);
  const base = deps.images.pathOf(spec.image);
  const device = deps.volumes?.devicePath(slicePaths(deps.places, spec).name) ?? null;
  const isOnItsOwn = overlay !== null && (overlay.dataFile === null || overlay.dataFile === device);
  if (isOnItsOwn && overlay.backingFile === base && overlay.virtualSizeBytes === spec.diskGib * GIB)
    return overlay.isEncrypted;
  const found =
    overlay === null
      ? "no qcow2 file"
      : `${overlay.virtualSizeBytes / GIB} GiB over ${overlay.backingFile ?? "nothing"}, on ${overlay.dataFile ?? "itself"}`;
  throw new AppError("journal_conflict", {
    detail: `The disk ${path} is not ${spec.diskGib} GiB over ${base}: it is ${found}.`,
  });
}

/** The key first: from then on nobody reads the disk, whatever becomes of the rest. The tables last: they tell of the volume. */
async function eraseDisk(deps: DiskDeps, paths: SlicePaths, signal: AbortSignal): Promise<DiskErasure> {
  const overlay = (await exists(paths.disk)) ? await readOverlay(paths.disk) : null;
  await destroyDiskKey(paths);
  await rm(draftOf(paths.disk), { force: true });
  const isEncrypted = overlay?.isEncrypted === true;
  const ofVolume = await eraseVolume(deps, paths, { dataFile: overlay?.dataFile ?? null, isEncrypted, signal });
  const ofFile = await eraseFile(deps.commands, paths.disk, { signal, isCiphertext: isEncrypted });
  await closeSliceFolder(paths);
  return ofVolume ?? ofFile;
}

/** Null where there is none. */
async function eraseVolume(
  deps: DiskDeps,
  paths: SlicePaths,
  disk: { readonly dataFile: string | null; readonly isEncrypted: boolean; readonly signal: AbortSignal },
): Promise<DiskErasure | null> {
  const path = disk.dataFile ?? deps.volumes?.devicePath(paths.name) ?? null;
  if (path === null) return null;
  const volumes = volumesOf(deps, paths, path);
  if (!(await volumes.open(paths.name, disk.signal))) return null;
  const erasure = disk.isEncrypted
    ? { method: VOLUME_KEY_ERASURE, readBack: KEY_IS_GONE }
    : await eraseDevice(path, disk.signal);
  await volumes.remove(paths.name, disk.signal);
  return erasure;
}

/** Throws where the disk's volume is of a kind that this agent knows nothing of: what is not found there may be all the same. */
function volumesOf({ volumes }: DiskDeps, paths: SlicePaths, device: string): Volumes {
  if (volumes?.devicePath(paths.name) === device) return volumes;
  throw new AppError("driver_unavailable", {
    detail: `What the slice wrote is on ${device}, and this agent was not told of such volumes: give it the --disks that it had.`,
  });
}
