import { open, type FileHandle } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import type { ImageReference } from "@hostler/shared/tasks.ts";

const QCOW2_MAGIC = 0x514649fb;
const HEADER_BYTES = 104;
const INCOMPATIBLE_EXTERNAL_DATA = 1n << 2n;
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
 * even `qemu-img info` opens the data file.
 */
export async function readVirtualSize(path: string, image: ImageReference): Promise<number> {
  const file = await open(path, "r");
  try {
    if (image.format === "tar") return await archiveSize(file, image.name);
    if (image.format === "raw") return Math.ceil((await file.stat()).size / SECTOR_BYTES) * SECTOR_BYTES;
    const header = Buffer.alloc(HEADER_BYTES);
    await file.read(header, 0, HEADER_BYTES, 0);
    return parseQcow2Size(header, image.name);
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

/** Layout: qemu.org/docs, interop/qcow2. */
function parseQcow2Size(header: Buffer, name: string): number {
  const version = header.readUInt32BE(4);
  if (header.readUInt32BE(0) !== QCOW2_MAGIC || (version !== 2 && version !== 3))
    throw refused(name, "it is no qcow2 image", "Import it with the format that it has.");
  if (header.readBigUInt64BE(8) !== 0n)
    throw refused(name, "it has a backing file", "Flatten it with qemu-img convert.");
  if (header.readUInt32BE(32) !== 0) throw refused(name, "it is encrypted", "Decrypt it with qemu-img convert.");
  if (version === 3 && (header.readBigUInt64BE(72) & INCOMPATIBLE_EXTERNAL_DATA) !== 0n)
    throw refused(name, "it keeps its data in another file", "Flatten it with qemu-img convert.");
  return Number(header.readBigUInt64BE(24));
}

export function refused(name: string, why: string, remedy: string): AppError {
  return new AppError("command_failed", { detail: `Image ${name} is refused: ${why}. ${remedy}` });
}
