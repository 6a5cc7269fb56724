import { readdir, readFile, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";
import * as z from "zod";
import { replaceFile } from "../slices/slice-folder.ts";

/** What stands beside an image that was verified: what it was then, and in which boot. Its own time is when it was used last. */
const verifiedSchema = z.object({ sizeBytes: z.number(), mtimeMs: z.number(), inode: z.number(), bootId: z.string() });

/** Below the folder of the images: what was downloaded, and the root file systems that were made of it. */
export const DOWNLOADS = "sha256";
export const ROOT_FILE_SYSTEMS = "rootfs";
const NAME = /^([0-9a-f]{64})(?:\.|$)/;

/** Everything that the host keeps of one image. */
export interface CachedFiles {
  readonly sha256: string;
  /** In the order in which they go: what says that another one is whole goes before it. */
  readonly paths: readonly string[];
  readonly bytes: number;
  readonly usedMs: number;
}

const recordOf = (path: string): string => `${path}.verified`;

/**
 * Whether the file is as it was when it was hashed: size, time and inode, in this boot. A disk that forgets, or that was written to
 * from elsewhere while this host was off, is found at the next boot.
 */
export async function isVerified(path: string, bootId: string): Promise<boolean> {
  const [text, found] = await Promise.all([
    readFile(recordOf(path), "utf8").catch(() => null),
    stat(path).catch(() => null),
  ]);
  const parsed = text === null ? null : verifiedSchema.safeParse(jsonOf(text));
  if (parsed?.success !== true || found === null) return false;
  const { sizeBytes, mtimeMs, inode, bootId: boot } = parsed.data;
  return found.size === sizeBytes && found.mtimeMs === mtimeMs && found.ino === inode && boot === bootId;
}

export async function recordVerified(path: string, bootId: string): Promise<void> {
  const { size, mtimeMs, ino } = await stat(path);
  await replaceFile(recordOf(path), JSON.stringify({ sizeBytes: size, mtimeMs, inode: ino, bootId }));
}

/** What was used last goes last. A file that is not there was not used. */
export async function noteUse(path: string, now: Date): Promise<void> {
  await utimes(recordOf(path), now, now).catch(ignoreMissing);
}

/** All images of the folder, those used longest ago first. */
export async function listCached(folder: string): Promise<readonly CachedFiles[]> {
  const names = await Promise.all(
    [DOWNLOADS, ROOT_FILE_SYSTEMS].map(async (name) =>
      (await readdir(join(folder, name)).catch(() => [])).map((file) => ({ file, path: join(folder, name, file) })),
    ),
  );
  const byImage = Map.groupBy(names.flat(), ({ file }) => NAME.exec(file)?.[1] ?? null);
  byImage.delete(null);
  const found = await Promise.all([...byImage].map(async ([sha256, files]) => await measure(sha256 ?? "", files)));
  return found.toSorted((a, b) => a.usedMs - b.usedMs);
}

async function measure(sha256: string, files: readonly { readonly path: string }[]): Promise<CachedFiles> {
  const measured = await Promise.all(
    files.map(async ({ path }) => ({ path, found: await stat(path).catch(() => null) })),
  );
  const there = measured.flatMap(({ path, found }) => (found === null ? [] : [{ path, found }]));
  return {
    sha256,
    paths: there.map(({ path }) => path).toSorted((a, b) => b.length - a.length),
    bytes: there.reduce((sum, { found }) => sum + found.blocks * 512, 0),
    usedMs: Math.max(0, ...there.map(({ found }) => found.mtimeMs)),
  };
}

/** A crash on the way leaves files that nothing calls whole: they are made again when they are wanted, or go the next time. */
export async function removeCached({ paths }: CachedFiles): Promise<void> {
  for (const path of paths) await rm(path, { recursive: true, force: true });
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}
