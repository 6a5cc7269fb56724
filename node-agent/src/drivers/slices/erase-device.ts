import { constants } from "node:fs";
import { open, readFile, stat, type FileHandle } from "node:fs/promises";
import type { DiskErasure } from "../../ports/slice-driver.ts";
import type { Extent } from "./file-extents.ts";
import { chunksOf, requireZeros, UNPROVEN, writeZeros } from "./erase-file.ts";

/** What `eraseDevice` does to a volume whose blocks are not encrypted, as receipts name it. */
export const DEVICE_ERASURE = "overwrite with zeros, remove the volume";
const SECTOR_BYTES = 512;

/**
 * Reads all of a block device, overwrites what says something, and reads that again. Blocks of a thin volume that were never written
 * read as zeros and take no space; they are left so. May be interrupted anywhere: what is zero already is not written again.
 */
export async function eraseDevice(path: string, signal: AbortSignal): Promise<DiskErasure> {
  const bytes = await sizeOf(path);
  // The kernel forgets what it remembers of a device when nobody has it open: what an erasure that was interrupted had written goes to
  // the device first, so that each of the passes below reads the device.
  await withDevice(path, constants.O_RDWR, async (file) => await file.sync());
  const written: Extent[] = [];
  await withDevice(path, constants.O_RDWR, async (file) => {
    for (const chunk of chunksOf({ offset: 0, bytes })) {
      signal.throwIfAborted();
      if (await writeZeros(file, chunk)) written.push(chunk);
    }
    await file.sync();
  });
  await withDevice(path, constants.O_RDONLY, async (file) => {
    for (const chunk of written) {
      signal.throwIfAborted();
      await requireZeros(file, path, chunk);
    }
  });
  return { method: DEVICE_ERASURE, readBack: `all ${bytes} bytes read back as zeros; ${UNPROVEN}` };
}

async function withDevice(path: string, flags: number, work: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, flags);
  try {
    await work(file);
  } finally {
    await file.close();
  }
}

/** A block device has none in its metadata; the kernel shows it in sectors, under the device's two numbers. */
async function sizeOf(path: string): Promise<number> {
  const { rdev } = await stat(path);
  // As the kernel packs them, for numbers below 4096 and 1048576.
  const [major, minor] = [(rdev >> 8) & 0xfff, (rdev & 0xff) | ((rdev >> 12) & 0xfff00)];
  return Number(await readFile(`/sys/dev/block/${major}:${minor}/size`, "utf8")) * SECTOR_BYTES;
}
