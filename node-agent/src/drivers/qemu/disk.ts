import { rename, rm } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { exists } from "../../host/exists.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { CreateContext, DiskErasure, DiskObject, SliceReference } from "../../ports/slice-driver.ts";
import type { ImageCache } from "../images/image-cache.ts";
import { eraseFile } from "../slices/erase-file.ts";
import { closeSliceFolder, openSliceFolder, translateNoSpace } from "../slices/slice-folder.ts";
import { slicePaths, type QemuPlaces, type SlicePaths } from "../slices/slice-paths.ts";
import { canOpen, destroyDiskKey, writeDiskKey } from "./disk-key.ts";
import { readOverlay } from "./overlay-header.ts";
import { writeOverlay } from "./write-overlay.ts";

const GIB = 1024 ** 3;

interface DiskDeps {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly images: ImageCache;
  /** Whether new disks are encrypted. One that is there stays as it was made. */
  readonly areEncrypted?: boolean;
}

/**
 * The slice's own disk: what it writes over its base image, which stays as it is. An encrypted one has a key that is in memory only
 * and dies with it; after a boot of the host it is a disk that is lost.
 */
export function makeDisk(deps: DiskDeps): DiskObject {
  const pathsOf = (slice: SliceReference): SlicePaths => slicePaths(deps.places, slice);
  const erase = async (slice: SliceReference, signal: AbortSignal): Promise<DiskErasure> =>
    await eraseDisk(deps, pathsOf(slice), signal);
  return {
    inspect: async (slice) => {
      const paths = pathsOf(slice);
      const found = await isOpenable(paths);
      if (found !== null) return found ? "present" : "partial";
      return (await exists(draftOf(paths.disk))) || (await exists(paths.diskKey)) ? "partial" : "absent";
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
async function isOpenable(paths: SlicePaths): Promise<boolean | null> {
  try {
    return await canOpen(paths, await readOverlay(paths.disk));
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
  if (await isOpenable(paths)) return await verifyChain(deps, paths.disk, spec);
  // What cannot be opened any more is nothing.
  await eraseFile(deps.commands, paths.disk, { signal: context.signal, isCiphertext: true });
  return await makeOverlay(deps, paths, spec);
}

async function makeOverlay(deps: DiskDeps, paths: SlicePaths, spec: SliceSpec): Promise<boolean> {
  const draft = draftOf(paths.disk);
  await rm(draft, { force: true });
  try {
    const passphrase = deps.areEncrypted === true ? await writeDiskKey(paths) : null;
    const backingFormat = spec.image.format === "raw" ? "raw" : "qcow2";
    const backingFile = deps.images.pathOf(spec.image);
    await writeOverlay(draft, { virtualSizeBytes: spec.diskGib * GIB, backingFile, backingFormat, passphrase });
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
  if (overlay?.backingFile === base && overlay.virtualSizeBytes === spec.diskGib * GIB) return overlay.isEncrypted;
  const found =
    overlay === null
      ? "no qcow2 file"
      : `${overlay.virtualSizeBytes / GIB} GiB over ${overlay.backingFile ?? "nothing"}`;
  throw new AppError("journal_conflict", {
    detail: `The disk ${path} is not ${spec.diskGib} GiB over ${base}: it is ${found}.`,
  });
}

/** The key first: from then on nobody reads the disk, whatever becomes of the rest. */
async function eraseDisk(deps: DiskDeps, paths: SlicePaths, signal: AbortSignal): Promise<DiskErasure> {
  const overlay = (await exists(paths.disk)) ? await readOverlay(paths.disk) : null;
  await destroyDiskKey(paths);
  await rm(draftOf(paths.disk), { force: true });
  const isCiphertext = overlay?.isEncrypted === true;
  const erasure = await eraseFile(deps.commands, paths.disk, { signal, isCiphertext });
  await closeSliceFolder(paths);
  return erasure;
}
