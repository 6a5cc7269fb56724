import { open, rm, statfs } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import { exists } from "../../host/exists.ts";
import { replaceFile } from "../slices/slice-folder.ts";
import type { SlicePaths } from "../slices/slice-paths.ts";
import { makeDiskKey } from "./luks-header.ts";
import type { Overlay } from "./overlay-header.ts";

/** tmpfs and ramfs: what was in them is gone when the host loses its power. */
const IN_MEMORY = new Set([0x01021994, 0x858458f6]);

/** Throws unless what is written into this folder stays in memory: a key that reached a drive cannot be destroyed. */
export async function requireMemoryFolder(path: string): Promise<void> {
  const { type } = await statfs(path);
  if (IN_MEMORY.has(type)) return;
  throw new AppError("driver_unavailable", {
    detail: `Keys of disks would be written to a drive: ${path} is not in memory. Mount a tmpfs there, set HOSTLER_AGENT_RUN_DIR to one, or leave out --encrypt-disks.`,
  });
}

/** A new key, in the place of the slice's; a disk under an older one is lost. */
export async function writeDiskKey(paths: SlicePaths): Promise<string> {
  const key = makeDiskKey();
  await replaceFile(paths.diskKey, key);
  return key;
}

/** Whether a disk can be opened: one that is encrypted is as good as gone without its key. */
export async function canOpen(paths: SlicePaths, overlay: Overlay | null): Promise<boolean> {
  return overlay?.isEncrypted !== true || (await exists(paths.diskKey));
}

/**
 * Overwritten first, for pages of a removed file stay in memory until they are used again. Nothing there is success. The folder stays:
 * another slice may be about to write into it.
 */
export async function destroyDiskKey(paths: SlicePaths): Promise<void> {
  const file = await open(paths.diskKey, "r+").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (file !== null) {
    try {
      const { size } = await file.stat();
      await file.write(Buffer.alloc(size), 0, size, 0);
    } finally {
      await file.close();
    }
  }
  for (const path of [paths.diskKey, `${paths.diskKey}.new`]) await rm(path, { force: true });
}
