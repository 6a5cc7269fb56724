import { rename, rm, truncate } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { HostObject } from "../../ports/slice-driver.ts";
import { closeSliceFolder, exists, openSliceFolder, replaceFile, translateNoSpace } from "../slices/slice-folder.ts";
import { containerPaths, type ContainerPlaces } from "./container-paths.ts";
import type { RootFileSystems } from "./root-file-system.ts";

const GIB = 1024 ** 3;
/** What ext4 needs for itself, on top of what is in it. */
const OVERHEAD = 1.15;
const MAKE_TIMEOUT_MS = 1_800_000;

interface DiskDeps {
  readonly places: ContainerPlaces;
  readonly commands: HostCommands;
  readonly bases: RootFileSystems;
}

/**
 * The slice's own disk: a file with an ext4 of exactly the size that was asked for, filled from the image. So the quota is the
 * size of the disk, a container may use overlays of its own, and erasing is giving back one file. The file is sparse: it takes
 * what is written. It is made without a mount, and nobody but our kernel writes its structures.
 */
export function makeDisk(deps: DiskDeps): HostObject {
  return {
    inspect: async (slice) => {
      const { disk } = containerPaths(deps.places, slice);
      if (await exists(disk)) return "present";
      return (await exists(draftOf(disk))) ? "partial" : "absent";
    },
    create: async (spec, context) => {
      const { signal } = context;
      const paths = containerPaths(deps.places, spec);
      const { disk } = paths;
      const { bytes } = await deps.bases.fetch(spec.image, { signal, report: () => undefined });
      if (bytes * OVERHEAD > spec.diskGib * GIB)
        throw new AppError("capacity_unavailable", {
          detail: `The image ${spec.image.name} needs a disk of ${Math.ceil((bytes * OVERHEAD) / GIB)} GiB; the slice asks for ${spec.diskGib}.`,
        });
      await openSliceFolder(paths, spec, context);
      // A disk that is whole is kept: a container may run on it already.
      if (!(await exists(disk))) {
        const argv = makeArgv(deps.bases.pathOf(spec.image), draftOf(disk), spec.diskGib);
        await fill(deps.commands, { draft: draftOf(disk), argv, signal });
        await rename(draftOf(disk), disk);
      }
      return { path: disk, base: spec.image.sha256, sizeGib: spec.diskGib };
    },
    remove: async (slice) => {
      const paths = containerPaths(deps.places, slice);
      const { disk } = paths;
      await rm(draftOf(disk), { force: true });
      // The blocks go before the name, so that they are free also while somebody still has the file open.
      if (await exists(disk)) await truncate(disk, 0);
      await rm(disk, { force: true });
      await closeSliceFolder(paths);
    },
  };
}

const draftOf = (path: string): string => `${path}.new`;

/** No blocks are kept for root: the disk is the tenant's. */
function makeArgv(base: string, draft: string, diskGib: number): readonly [string, ...string[]] {
  const options = ["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
  return ["mke2fs", ...options, "-d", base, draft, `${diskGib}G`];
}

async function fill(
  commands: HostCommands,
  disk: { readonly draft: string; readonly argv: readonly [string, ...string[]]; readonly signal: AbortSignal },
): Promise<void> {
  const { draft, argv, signal } = disk;
  await rm(draft, { force: true });
  try {
    // Made first, so that what is in it is never readable by others.
    await replaceFile(draft, "");
    requireSuccess(argv, await commands.run(argv, { timeoutMs: MAKE_TIMEOUT_MS, signal }));
  } catch (error) {
    await rm(draft, { force: true });
    throw translateNoSpace(error, "the disk");
  }
}
