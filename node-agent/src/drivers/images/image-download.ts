import { createHash, type Hash } from "node:crypto";
import { constants, createReadStream } from "node:fs";
import { open, rm, type FileHandle } from "node:fs/promises";
import { AppError, isAppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import type { ImageSource } from "../../ports/image-source.ts";
import { translateNoSpace } from "../slices/slice-folder.ts";

export interface ImageDownload {
  readonly image: ImageReference;
  /** What is there already is kept, hashed again, and continued. */
  readonly partial: string;
  readonly signal: AbortSignal;
  report(message: string): void;
}

/**
 * Brings the partial file to the image's size, never beyond, and resolves with the hash of all of it, made on the way. A
 * connection that breaks rejects with `service_unavailable` and leaves what came for the next call; a full disk, or more bytes than
 * were announced, leave nothing.
 */
export async function downloadImage(source: ImageSource, download: ImageDownload): Promise<string> {
  const { image, partial } = download;
  const hash = createHash("sha256");
  const file = await open(partial, constants.O_CREAT | constants.O_RDWR, 0o600);
  try {
    const had = await hashWhatIsThere(file, download, hash);
    if (had < image.sizeBytes) await append(file, source, { download, hash, offset: had });
    await file.sync();
    return hash.digest("hex");
  } catch (error) {
    const translated = translateNoSpace(asConnectionFailure(error), `the image ${image.name}`);
    if (isAppError(translated, "disk_full") || isAppError(translated, "image_checksum_mismatch"))
      await rm(partial, { force: true });
    throw translated;
  } finally {
    await file.close();
  }
}

async function hashWhatIsThere(
  file: FileHandle,
  { image, partial, signal }: ImageDownload,
  hash: Hash,
): Promise<number> {
  const { size } = await file.stat();
  if (size > image.sizeBytes) await file.truncate(0);
  if (size === 0 || size > image.sizeBytes) return 0;
  for await (const chunk of createReadStream(partial, { signal })) hash.update(chunk as Buffer);
  return size;
}

async function append(
  file: FileHandle,
  source: ImageSource,
  options: { readonly download: ImageDownload; readonly hash: Hash; readonly offset: number },
): Promise<void> {
  const { download, hash, offset } = options;
  const { image, signal } = download;
  let done = offset;
  let toldPercent = Math.floor((100 * offset) / image.sizeBytes);
  for await (const chunk of await source.open(image, { offset, signal })) {
    signal.throwIfAborted();
    if (done + chunk.length > image.sizeBytes)
      throw new AppError("image_checksum_mismatch", {
        detail: `Image ${image.name} is larger than the ${image.sizeBytes} bytes that it should have.`,
      });
    await writeAll(file, chunk, done);
    hash.update(chunk);
    done += chunk.length;
    const percent = Math.floor((100 * done) / image.sizeBytes);
    if (percent < toldPercent + 10) continue;
    toldPercent = percent;
    download.report(`${percent} % of ${Math.ceil(image.sizeBytes / 1_048_576)} MiB`);
  }
  if (done < image.sizeBytes)
    throw new AppError("service_unavailable", {
      detail: `The download of ${image.name} ended after ${done} of ${image.sizeBytes} bytes; it goes on from there.`,
    });
}

async function writeAll(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let written = 0; written < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, written, bytes.length - written, position + written);
    written += bytesWritten;
  }
}

/** A stream that breaks in the middle rejects with the HTTP client's own error. */
function asConnectionFailure(error: unknown): unknown {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return code.startsWith("UND_ERR") || code === "ECONNRESET" || code === "EPIPE"
    ? new AppError("service_unavailable", { detail: "The download broke off; it goes on from there.", cause: error })
    : error;
}
