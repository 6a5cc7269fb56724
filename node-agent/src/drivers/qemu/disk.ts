import { rename, rm } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { DiskObject } from "../../ports/slice-driver.ts";
import type { ImageCache } from "../images/image-cache.ts";
import { eraseFile } from "../slices/erase-file.ts";
import { exists } from "../../host/exists.ts";
import { closeSliceFolder, openSliceFolder } from "../slices/slice-folder.ts";
import { readOverlay } from "./overlay-header.ts";
import { slicePaths, type QemuPlaces } from "../slices/slice-paths.ts";

const GIB = 1024 ** 3;

interface DiskDeps {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly images: ImageCache;
}

/** The slice's own disk: what it writes over its base image, which stays as it is. */
export function makeDisk(deps: DiskDeps): DiskObject {
  const erase: DiskObject["erase"] = async (slice, signal) => {
    const paths = slicePaths(deps.places, slice);
    await rm(draftOf(paths.disk), { force: true });
    const erasure = await eraseFile(deps.commands, paths.disk, { signal, isCiphertext: false });
    await closeSliceFolder(paths);
    return erasure;
  };
  return {
    inspect: async (slice) => {
      const { disk } = slicePaths(deps.places, slice);
      if (await exists(disk)) return "present";
      return (await exists(draftOf(disk))) ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const { signal } = context;
      const paths = slicePaths(deps.places, spec);
      // The base does not go before the header of the disk says that it is needed.
      await deps.images.use(spec.image, { signal, report: () => undefined }, async ({ virtualSizeBytes }) => {
        requireFit(spec, virtualSizeBytes);
        await openSliceFolder(paths, spec, context);
        // A disk that is whole is kept: a machine may run on it already.
        if (await exists(paths.disk)) await verifyChain(deps, { path: paths.disk, spec, signal });
        else await makeOverlay(deps, { path: paths.disk, spec, signal });
      });
      return { path: paths.disk, base: spec.image.sha256, sizeGib: spec.diskGib };
    },
    erase,
    remove: async (slice, signal) => void (await erase(slice, signal)),
  };
}

function requireFit(spec: SliceSpec, virtualSizeBytes: number): void {
  if (virtualSizeBytes > spec.diskGib * GIB)
    throw new AppError("capacity_unavailable", {
      detail: `The image ${spec.image.name} needs a disk of ${Math.ceil(virtualSizeBytes / GIB)} GiB; the slice asks for ${spec.diskGib}.`,
    });
}

interface Place {
  readonly path: string;
  readonly spec: SliceSpec;
  readonly signal: AbortSignal;
}

const draftOf = (path: string): string => `${path}.new`;

async function makeOverlay(deps: DiskDeps, { path, spec, signal }: Place): Promise<void> {
  const draft = draftOf(path);
  const base = deps.images.pathOf(spec.image);
  await rm(draft, { force: true });
  try {
    const format = ["-f", "qcow2", "-F", spec.image.format, "-b", base] as const;
    const argv = ["qemu-img", "create", "-q", ...format, draft, `${spec.diskGib}G`] as const;
    requireSuccess(argv, await deps.commands.run(argv, { timeoutMs: 60_000, signal }));
    await verifyChain(deps, { path: draft, spec, signal });
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
}

/** Reads the disk back: exactly our file over exactly the verified base, which is over nothing, and the size that was asked for. */
async function verifyChain(deps: DiskDeps, { path, spec }: Place): Promise<void> {
  const overlay = await readOverlay(path);
  const base = deps.images.pathOf(spec.image);
  if (overlay?.backingFile === base && overlay.virtualSizeBytes === spec.diskGib * GIB) return;
  const found =
    overlay === null
      ? "no qcow2 file"
      : `${overlay.virtualSizeBytes / GIB} GiB over ${overlay.backingFile ?? "nothing"}`;
  throw new AppError("journal_conflict", {
    detail: `The disk ${path} is not ${spec.diskGib} GiB over ${base}: it is ${found}.`,
  });
}
