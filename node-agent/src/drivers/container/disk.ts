import { rename, rm, truncate } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { DiskObject } from "../../ports/slice-driver.ts";
import { eraseFile } from "../slices/erase-file.ts";
import { exists } from "../../host/exists.ts";
import { closeSliceFolder, openSliceFolder, replaceFile, translateNoSpace } from "../slices/slice-folder.ts";
import { containerPaths, type ContainerPlaces } from "./container-paths.ts";
import type { RootFileSystems } from "./root-file-system.ts";

const GIB = 1024 ** 3;
const COPY_TIMEOUT_MS = 600_000;

interface DiskDeps {
  readonly places: ContainerPlaces;
  readonly commands: HostCommands;
  readonly bases: RootFileSystems;
}

/**
 * The slice's own disk: a file with an ext4 of exactly the size that was asked for, copied from the image's and grown. So the
 * quota is the size of the disk, a container may use overlays of its own, and erasing is giving back one file. The file is
 * sparse, and shares the image's blocks where the host's file system can. It is made without a mount.
 */
export function makeDisk(deps: DiskDeps): DiskObject {
  const erase: DiskObject["erase"] = async (slice, signal) => {
    const paths = containerPaths(deps.places, slice);
    await rm(draftOf(paths.disk), { force: true });
    const erasure = await eraseFile(deps.commands, paths.disk, { signal, isCiphertext: false });
    await closeSliceFolder(paths);
    return erasure;
  };
  return {
    inspect: async (slice) => {
      const { disk } = containerPaths(deps.places, slice);
      if (await exists(disk)) return "present";
      return (await exists(draftOf(disk))) ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const { signal } = context;
      const paths = containerPaths(deps.places, spec);
      // What it is copied from does not go on the way.
      await deps.bases.use(spec.image, { signal, report: () => undefined }, async ({ sizeMib }) => {
        requireFit(spec, sizeMib);
        await openSliceFolder(paths, spec, context);
        // A disk that is whole is kept: a container may run on it already.
        if (!(await exists(paths.disk))) await copyAndGrow(deps, paths.disk, { spec, signal });
      });
      return { path: paths.disk, base: spec.image.sha256, sizeGib: spec.diskGib };
    },
    erase,
    remove: async (slice, signal) => void (await erase(slice, signal)),
  };
}

function requireFit(spec: SliceSpec, sizeMib: number): void {
  if (sizeMib > spec.diskGib * 1024)
    throw new AppError("capacity_unavailable", {
      detail: `The image ${spec.image.name} needs a disk of ${Math.ceil(sizeMib / 1024)} GiB; the slice asks for ${spec.diskGib}.`,
    });
}

const draftOf = (path: string): string => `${path}.new`;

async function copyAndGrow(
  deps: DiskDeps,
  disk: string,
  { spec, signal }: { readonly spec: SliceSpec; readonly signal: AbortSignal },
): Promise<void> {
  const draft = draftOf(disk);
  const run = async (argv: readonly [string, ...string[]]): Promise<void> =>
    void requireSuccess(argv, await deps.commands.run(argv, { timeoutMs: COPY_TIMEOUT_MS, signal }));
  await rm(draft, { force: true });
  try {
    // Made first, so that what is in it is never readable by others.
    await replaceFile(draft, "");
    await run(["cp", "--sparse=always", "--reflink=auto", deps.bases.pathOf(spec.image), draft]);
    await truncate(draft, spec.diskGib * GIB);
    await run(["resize2fs", draft]);
    await rename(draft, disk);
  } catch (error) {
    await rm(draft, { force: true });
    throw translateNoSpace(error, "the disk");
  }
}
