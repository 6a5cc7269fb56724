import { open, type FileHandle } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";
import { HEADER_READ_BYTES, HeaderRefusal, parseQcow2Header } from "./qcow2-header.ts";

const SECTOR_BYTES = 512;
const ARCHIVE_MAGICS = [
  { offset: 257, bytes: Buffer.from("ustar") },
  { offset: 0, bytes: Buffer.from("1f8b", "hex") },
  { offset: 0, bytes: Buffer.from("fd377a585a00", "hex") },
  { offset: 0, bytes: Buffer.from("28b52ffd", "hex") },
];

/**
 * The size of the disk that an image claims to be, read without letting QEMU open it. Images come from tenants in the end:
 * one that names another file (a backing file, an external data file) would show that file of the host to its guest, and
 * even `qemu-img info` opens the data file. Bytes are read as the format that was declared, never as one that they look like.
 */
export async function readVirtualSize(path: string, image: ImageReference): Promise<number> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    if (image.format === "tar") return await archiveSize(file, image.name);
    if (image.format === "raw") return Math.ceil(size / SECTOR_BYTES) * SECTOR_BYTES;
    const start = Buffer.alloc(Math.min(HEADER_READ_BYTES, size));
    await file.read(start, 0, start.length, 0);
    return parseQcow2Header(start, size).virtualSizeBytes;
  } catch (error) {
    if (error instanceof HeaderRefusal)
      throw refused(image.name, error.message, "Make it anew with: qemu-img convert -O qcow2.");
    throw error;
  } finally {
    await file.close();
  }
}

/** By its first bytes, never by its name. How large its contents are is only known once they were listed. */
async function archiveSize(file: FileHandle, name: string): Promise<number> {
  const start = Buffer.alloc(512);
  await file.read(start, 0, start.length, 0);
  const isKnown = ARCHIVE_MAGICS.some(({ offset, bytes }) =>
    start.subarray(offset, offset + bytes.length).equals(bytes),
  );
  if (!isKnown)
    throw refused(name, "it is no tar archive", "Import the root file system as tar, tar.gz, tar.xz or tar.zst.");
  return (await file.stat()).size;
}

export function refused(name: string, why: string, remedy: string): AppError {
  return new AppError("command_failed", { detail: `Image ${name} is refused: ${why}. ${remedy}` });
}
