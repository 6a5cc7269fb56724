import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { chmod, mkdir, rename, rm, stat, statfs } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import { makeConfined, type Confined } from "../../host/confine.ts";
import { readBootId } from "../../host/facts.ts";
import type { HostScope } from "../../host/host-scope.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ImageSource } from "../../ports/image-source.ts";
import { syncFolder } from "../slices/slice-folder.ts";
import { checkImage } from "./check-image.ts";
import { downloadImage } from "./image-download.ts";
import { DOWNLOADS, isVerified, noteUse, recordVerified } from "./image-files.ts";
import { readVirtualSize } from "./image-header.ts";
import { makeImageRoom, type ImageRoom } from "./image-room.ts";
import { makeSharedWork } from "@hostler/shared/shared-work.ts";

/** Base images by content. A file under its hash is whole and verified; bases are never written again. */
export interface ImageCache extends Pick<ImageRoom, "freeUp" | "unusedBytes"> {
  pathOf(image: ImageReference): string;
  /** Whether the file is there as it was when it was verified in this boot (size, time and inode unchanged). */
  isCached(image: ImageReference): Promise<boolean>;
  /**
   * Fetches and verifies it; many waiters share one download, which ends with its last waiter. A broken download goes on
   * where it stopped. Rejects with `image_checksum_mismatch` after a second try, with `disk_full` when also without the images
   * that nobody uses there is no room, with `service_unavailable`.
   */
  fetch(image: ImageReference, options: FetchOptions): Promise<CachedImage>;
  /** While it is held neither the image nor what was made of it goes. Resolves with what ends that. */
  hold(image: ImageReference): Promise<() => void>;
  /** Fetches it and holds it until the work with it has ended. */
  use<Result>(
    image: ImageReference,
    options: FetchOptions,
    work: (cached: CachedImage) => Promise<Result>,
  ): Promise<Result>;
}

export interface FetchOptions {
  readonly signal: AbortSignal;
  report(message: string): void;
}

export interface CachedImage {
  readonly virtualSizeBytes: number;
  readonly source: "cache" | "download";
}

export interface ImageCacheDeps {
  readonly folder: string;
  readonly source: ImageSource;
  readonly commands: HostCommands;
  readonly clock: Clock;
  /** Where programs of the host get their rights; the agent's own unless given. */
  readonly scope?: HostScope;
  /** Bytes that images may take; null, or left out, a quarter of their file system. */
  readonly budgetBytes?: number | null;
  /** Left out, no disk lies over an image here. */
  readonly basesInUse?: () => Promise<ReadonlySet<string>>;
  readonly bootId?: () => Promise<string>;
}

interface Parts {
  readonly deps: ImageCacheDeps;
  readonly confined: Confined;
  readonly room: ImageRoom;
  readonly bootId: () => Promise<string>;
}

const CHECKSUM_TRIES = 2;

export function makeImageCache(deps: ImageCacheDeps): ImageCache {
  const pathOf = (image: ImageReference): string => join(deps.folder, DOWNLOADS, image.sha256);
  const downloads = makeSharedWork<CachedImage>();
  const bootId = deps.bootId ?? readBootId;
  const room = makeImageRoom({
    folder: deps.folder,
    budgetBytes: async () => deps.budgetBytes ?? (await quarterOfDisk(deps.folder)),
    basesInUse: deps.basesInUse ?? (async () => new Set()),
  });
  const parts: Parts = { deps, room, bootId, confined: makeConfined(deps) };
  const hold: ImageCache["hold"] = async (image) => {
    const release = await room.hold(image.sha256);
    await noteUse(pathOf(image), deps.clock.now());
    return release;
  };
  const use: ImageCache["use"] = async (image, options, work) => {
    const path = pathOf(image);
    const release = await hold(image);
    try {
      const kept = await readKept(parts, { image, path });
      const join = async (): Promise<CachedImage> =>
        await downloads.join(image.sha256, options, async (waiter) => await obtain(parts, { image, path, ...waiter }));
      return await work(kept ?? (await join()));
    } finally {
      release();
    }
  };
  return {
    pathOf,
    isCached: async (image) => await isVerified(pathOf(image), await bootId()),
    fetch: async (image, options) => await use(image, options, async (cached) => cached),
    hold,
    use,
    freeUp: room.freeUp,
    unusedBytes: room.unusedBytes,
  };
}

async function quarterOfDisk(folder: string): Promise<number> {
  await mkdir(folder, { recursive: true, mode: 0o755 });
  const { blocks, bsize } = await statfs(folder);
  return (blocks * bsize) / 4;
}

interface Fetch extends FetchOptions {
  readonly image: ImageReference;
  readonly path: string;
}

async function readKept(parts: Parts, { image, path }: Pick<Fetch, "image" | "path">): Promise<CachedImage | null> {
  if (!(await isVerified(path, await parts.bootId()))) return null;
  return { virtualSizeBytes: await readVirtualSize(path, image), source: "cache" };
}

async function obtain(parts: Parts, fetch: Fetch): Promise<CachedImage> {
  const { image, path } = fetch;
  const kept = (await readKept(parts, fetch)) ?? (await verifyAgain(parts, fetch));
  if (kept !== null) return kept;
  const folder = dirname(path);
  await mkdir(folder, { recursive: true, mode: 0o755 });
  await parts.room.makeRoom(image.sha256, image.sizeBytes);
  const partial = `${path}.partial`;
  await downloadVerified(parts, fetch, partial);
  const virtualSizeBytes = await checkOrRemove(parts, fetch, partial);
  await chmod(partial, 0o444);
  await rename(partial, path);
  await syncFolder(folder);
  await recordVerified(path, await parts.bootId());
  return { virtualSizeBytes, source: "download" };
}

async function downloadVerified(parts: Parts, fetch: Fetch, partial: string): Promise<void> {
  const { image } = fetch;
  for (let attempt = 1; ; attempt += 1) {
    const actual = await downloadOrEvict(parts, fetch, partial);
    if (actual === image.sha256) return;
    await rm(partial, { force: true });
    if (attempt === CHECKSUM_TRIES)
      throw new AppError("image_checksum_mismatch", {
        detail: `Image ${image.name} should have the hash ${image.sha256} and has ${actual}.`,
      });
    fetch.report("The checksum does not match; fetching it once more.");
  }
}

/** The disk is not only for images: it may be full although their budget is not. */
async function downloadOrEvict({ deps, room }: Parts, fetch: Fetch, partial: string): Promise<string> {
  try {
    return await downloadImage(deps.source, { ...fetch, partial });
  } catch (error) {
    if (!isAppError(error, "disk_full") || (await room.freeUp(fetch.image.sizeBytes)) === 0) throw error;
    fetch.report("The disk was full; images that nobody uses are gone. Fetching it once more.");
    return await downloadImage(deps.source, { ...fetch, partial });
  }
}

/** A file without a fitting record (a crash before it, another boot, a restored backup) is kept when its hash is right. */
async function verifyAgain(parts: Parts, fetch: Fetch): Promise<CachedImage | null> {
  const { image, path, signal, report } = fetch;
  if ((await stat(path).catch(() => null)) === null) return null;
  report("Checking the image that is there.");
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { signal })) hash.update(chunk as Buffer);
  if (hash.digest("hex") !== image.sha256) {
    await rm(path, { force: true });
    return null;
  }
  // Also looked at once more: an older agent may have let through what this one refuses.
  const virtualSizeBytes = await checkOrRemove(parts, fetch, path);
  await recordVerified(path, await parts.bootId());
  return { virtualSizeBytes, source: "cache" };
}

async function checkOrRemove({ confined }: Parts, { image, signal }: Fetch, path: string): Promise<number> {
  try {
    return await checkImage(confined, { image, path, signal });
  } catch (error) {
    if (!signal.aborted) await rm(path, { force: true });
    throw error;
  }
}
