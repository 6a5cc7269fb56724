import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { eraseFile } from "./erase-file.ts";

/** Erases every file of a folder, and the folder. Nothing there is success. */
export async function eraseFolder(path: string): Promise<void> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true }).catch(() => []);
  for (const entry of entries) if (entry.isFile()) await eraseFile(join(entry.parentPath, entry.name));
  await rm(path, { recursive: true, force: true });
}
