import { open, rm } from "node:fs/promises";

/** What `eraseFile` does, as receipts name it. */
export const FILE_ERASURE = "truncate and unlink";

/** Gives the blocks back before the name goes, so that they are free (and trimmed) also while somebody still has the file open. */
export async function eraseFile(path: string): Promise<void> {
  await discard(path);
  await rm(path, { force: true });
}

async function discard(path: string): Promise<void> {
  const file = await open(path, "r+").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (file === null) return;
  try {
    await file.truncate(0);
    await file.sync();
  } finally {
    await file.close();
  }
}
