import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { chmod, mkdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import * as z from "zod";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { ImageSource } from "../../ports/image-source.ts";
import { downloadImage } from "./image-download.ts";
import { readVirtualSize, refused } from "./image-header.ts";
import { makeSharedWork } from "./shared-work.ts";
import { replaceFile, syncFolder } from "../slices/slice-folder.ts";

/** Base images by content. A file under its hash is whole and verified; bases are never written again. */
export interface ImageCache {
  pathOf(image: ImageReference): string;
  /** Whether the file is there as it was when it was verified (size, time and inode unchanged). */
  isCached(image: ImageReference): Promise<boolean>;
  /**
   * Fetches and verifies it; many waiters share one download, which ends with its last waiter. A broken download goes on
   * where it stopped. Rejects with `image_checksum_mismatch` after a second try, with `disk_full`, with `service_unavailable`.
   */
  fetch(image: ImageReference, options: FetchOptions): Promise<CachedImage>;
}

export interface FetchOptions {
  readonly signal: AbortSignal;
  report(message: string): void;
}

export interface CachedImage {
  readonly virtualSizeBytes: number;
  readonly source: "cache" | "download";
}

interface ImageCacheDeps {
  readonly folder: string;
  readonly source: ImageSource;
  readonly commands: HostCommands;
}

const verifiedSchema = z.object({ sizeBytes: z.number(), mtimeMs: z.number(), inode: z.number() });
const infoSchema = z.looseObject({
  "virtual-size": z.number(),
  "backing-filename": z.string().optional(),
  "format-specific": z.looseObject({ data: z.looseObject({ "data-file": z.string().optional() }) }).optional(),
});
const CHECKSUM_TRIES = 2;

export function makeImageCache(deps: ImageCacheDeps): ImageCache {
  const pathOf = (image: ImageReference): string => join(deps.folder, "sha256", image.sha256);
  const downloads = makeSharedWork<CachedImage>();
  return {
    pathOf,
    isCached: async (image) => await isVerified(pathOf(image)),
    fetch: async (image, options) => {
      const path = pathOf(image);
      if (await isVerified(path)) return { virtualSizeBytes: await readVirtualSize(path, image), source: "cache" };
      return await downloads.join(
        image.sha256,
        options,
        async (shared) => await obtain(deps, { image, path, ...shared }),
      );
    },
  };
}

interface Fetch extends FetchOptions {
  readonly image: ImageReference;
  readonly path: string;
}

async function obtain(deps: ImageCacheDeps, fetch: Fetch): Promise<CachedImage> {
  const { image, path } = fetch;
  const isKept = (await isVerified(path)) || (await verifyAgain(fetch));
  if (isKept) return { virtualSizeBytes: await readVirtualSize(path, image), source: "cache" };
  await mkdir(join(deps.folder, "sha256"), { recursive: true, mode: 0o755 });
  const partial = `${path}.partial`;
  for (let attempt = 1; ; attempt += 1) {
    const actual = await downloadImage(deps.source, { ...fetch, partial });
    if (actual === image.sha256) break;
    await rm(partial, { force: true });
    if (attempt === CHECKSUM_TRIES)
      throw new AppError("image_checksum_mismatch", {
        detail: `Image ${image.name} should have the hash ${image.sha256} and has ${actual}.`,
      });
    fetch.report("The checksum does not match; fetching it once more.");
  }
  const virtualSizeBytes = await inspectImage(deps.commands, fetch, partial);
  await chmod(partial, 0o444);
  await rename(partial, path);
  await syncFolder(join(deps.folder, "sha256"));
  await recordVerified(path);
  return { virtualSizeBytes, source: "download" };
}

/** A file without a fitting record (a crash before the record, a restored backup) is kept when its hash is right. */
async function verifyAgain({ image, path, signal, report }: Fetch): Promise<boolean> {
  const found = await stat(path).catch(() => null);
  if (found === null) return false;
  report("Checking the image that is there.");
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { signal })) hash.update(chunk as Buffer);
  if (hash.digest("hex") !== image.sha256) {
    await rm(path, { force: true });
    return false;
  }
  await recordVerified(path);
  return true;
}

/** Our own look at the header comes first: only an image that names no other file is opened by QEMU's tools. */
async function inspectImage(commands: HostCommands, fetch: Fetch, path: string): Promise<number> {
  const { image, signal } = fetch;
  try {
    const virtualSizeBytes = await readVirtualSize(path, image);
    if (image.format === "tar") return virtualSizeBytes;
    const argv = ["qemu-img", "info", "--output=json", "-f", image.format, path] as const;
    const result = requireSuccess(argv, await commands.run(argv, { timeoutMs: 30_000, signal }));
    const info = infoSchema.parse(JSON.parse(result.stdout));
    const other = info["backing-filename"] ?? info["format-specific"]?.data["data-file"];
    if (other !== undefined) throw refused(image.name, `it refers to ${other}`, "Flatten it with qemu-img convert.");
    if (info["virtual-size"] !== virtualSizeBytes)
      throw refused(image.name, "its size is ambiguous", "Convert it anew.");
    return virtualSizeBytes;
  } catch (error) {
    if (!signal.aborted) await rm(path, { force: true });
    throw error;
  }
}

async function isVerified(path: string): Promise<boolean> {
  const text = await readFile(`${path}.verified`, "utf8").catch(() => null);
  const found = await stat(path).catch(() => null);
  if (text === null || found === null) return false;
  const verified = verifiedSchema.parse(JSON.parse(text));
  return found.size === verified.sizeBytes && found.mtimeMs === verified.mtimeMs && found.ino === verified.inode;
}

async function recordVerified(path: string): Promise<void> {
  const { size, mtimeMs, ino } = await stat(path);
  await replaceFile(`${path}.verified`, JSON.stringify({ sizeBytes: size, mtimeMs, inode: ino }));
}
