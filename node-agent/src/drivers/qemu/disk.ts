import { rename, rm } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { HostObject } from "../../ports/slice-driver.ts";
import type { ImageCache } from "./image-cache.ts";
import { closeSliceFolder, exists, openSliceFolder } from "./slice-folder.ts";
import { slicePaths, type QemuPlaces } from "./slice-paths.ts";

const GIB = 1024 ** 3;

/** The slice's own disk: what it writes over its base image, which stays as it is. */
export function makeDisk(deps: {
  readonly places: QemuPlaces;
  readonly commands: HostCommands;
  readonly images: ImageCache;
}): HostObject {
  return {
    inspect: async (slice) => {
      const { disk } = slicePaths(deps.places, slice);
      if (await exists(disk)) return "present";
      return (await exists(`${disk}.new`)) ? "partial" : "absent";
    },
    create: async (spec, { signal }) => {
      const paths = slicePaths(deps.places, spec);
      const { virtualSizeBytes } = await deps.images.fetch(spec.image, { signal, report: () => undefined });
      if (virtualSizeBytes > spec.diskGib * GIB) {
        throw new AppError("capacity_unavailable", {
          detail: `The image ${spec.image.name} needs a disk of ${Math.ceil(virtualSizeBytes / GIB)} GiB; the slice asks for ${spec.diskGib}.`,
        });
      }
      await openSliceFolder(paths, spec);
      const draft = `${paths.disk}.new`;
      await rm(draft, { force: true });
      const argv = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        spec.image.format,
        "-b",
        deps.images.pathOf(spec.image),
        draft,
        `${spec.diskGib}G`,
      ] as const;
      try {
        requireSuccess(argv, await deps.commands.run(argv, { timeoutMs: 60_000, signal }));
        await rename(draft, paths.disk);
      } catch (error) {
        await rm(draft, { force: true });
        throw error;
      }
      return { path: paths.disk, base: spec.image.sha256, sizeGib: spec.diskGib };
    },
    remove: async (slice) => {
      const paths = slicePaths(deps.places, slice);
      await rm(`${paths.disk}.new`, { force: true });
      await rm(paths.disk, { force: true });
      await closeSliceFolder(paths);
    },
  };
}
