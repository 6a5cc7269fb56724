import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { HostCommands } from "../../ports/host-commands.ts";
import { eraseFile } from "./erase-file.ts";

/** Erases every file of a folder, and the folder. Nothing there is success. */
export async function eraseFolder(commands: HostCommands, path: string, signal: AbortSignal): Promise<void> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true }).catch(() => []);
  const options = { signal, isCiphertext: false };
  for (const entry of entries)
    if (entry.isFile()) await eraseFile(commands, join(entry.parentPath, entry.name), options);
  await rm(path, { recursive: true, force: true });
}
