import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join, relative } from "node:path";

export const SOURCE_DIR = import.meta.dirname;

/** SHA-256 over our own files that end up in the image or decide how it is made. */
export async function sourceDigest(): Promise<string> {
  const entries = await readdir(SOURCE_DIR, { recursive: true, withFileTypes: true });
  const paths = entries
    .filter((entry) => entry.isFile() && !/\.test\.ts$|\.md$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name));
  const hash = createHash("sha256");
  for (const path of paths.toSorted()) {
    hash
      .update(`${relative(SOURCE_DIR, path)}\0`)
      .update(await readFile(path))
      .update("\0");
  }
  return hash.digest("hex");
}
