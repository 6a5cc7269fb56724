import { readdir } from "node:fs/promises";
import { basename, join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import type { ImageSource } from "../../ports/image-source.ts";
import { makeImageCache, type ImageCache, type ImageCacheDeps } from "../images/image-cache.ts";
import { DISK_NAME } from "../slices/slice-paths.ts";
import { readOverlay, type Overlay } from "./overlay-header.ts";

/** The images of a host whose disks lie over them: none goes while the header of a disk names it. */
export function makeHostImages(
  deps: Omit<ImageCacheDeps, "folder" | "source" | "basesInUse"> & {
    readonly stateDir: string;
    readonly images: ImageSource;
  },
): ImageCache {
  const { stateDir, images: source } = deps;
  const folder = join(stateDir, "images");
  return makeImageCache({ ...deps, source, folder, basesInUse: async () => await basesInUse(stateDir) });
}

async function basesInUse(stateDir: string): Promise<ReadonlySet<string>> {
  const slices = join(stateDir, "slices");
  const names = await readdir(slices).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  const bases = await Promise.all(names.map(async (name) => await baseOf(join(slices, name, DISK_NAME))));
  return new Set(bases.filter((base) => base !== null));
}

/** A disk that cannot be read may lie over any image: then none may go. */
async function baseOf(disk: string): Promise<string | null> {
  let overlay: Overlay | null;
  try {
    overlay = await readOverlay(disk);
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return null;
    throw error;
  }
  if (overlay === null)
    throw new AppError("disk_full", {
      detail: `Images must go, but none may: the disk ${disk} cannot be read, and which image it lies over is not known. Release its slice, or restore the disk.`,
    });
  return overlay.backingFile === null ? null : basename(overlay.backingFile);
}
