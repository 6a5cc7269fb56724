import { readdir } from "node:fs/promises";

/** The names in a folder; empty where there is none, or where it went meanwhile. Any other reason rejects: unread is not empty. */
export async function namesIn(folder: string): Promise<readonly string[]> {
  return await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
    throw error;
  });
}
