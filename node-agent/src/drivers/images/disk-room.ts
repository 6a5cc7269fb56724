import { AppError } from "@hostler/shared/errors.ts";
import type { ImageCache } from "./image-cache.ts";

/** Left free on the host's disk: the journal and the logs must still fit. */
const RESERVE_GIB = 1;
const GIB = 1024 ** 3;

/**
 * Rejects with `disk_full` when an image that takes so many bytes would not fit here, also after the images that nobody uses went.
 * Removes none: the download does, when it must. Resolves with what is free, GiB.
 */
export async function requireDiskRoom(
  host: {
    readonly stateDir: string;
    readonly diskFreeGib: () => Promise<number>;
    readonly images: Pick<ImageCache, "unusedBytes">;
  },
  imageBytes: number,
): Promise<number> {
  const freeGib = await host.diskFreeGib();
  const imageGib = Math.ceil(imageBytes / GIB);
  if (freeGib >= RESERVE_GIB + imageGib) return freeGib;
  const unusedGib = Math.floor((await host.images.unusedBytes()) / GIB);
  if (freeGib + unusedGib >= RESERVE_GIB + imageGib) return freeGib;
  throw new AppError("disk_full", {
    detail: `${freeGib} GiB are free under ${host.stateDir}, and images that nobody uses take ${unusedGib}; the image takes about ${imageGib} and ${RESERVE_GIB} must stay free.`,
  });
}
