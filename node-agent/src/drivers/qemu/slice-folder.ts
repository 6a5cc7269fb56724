import { mkdir, readdir, readFile, rename, rm, rmdir, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import type { SliceReference } from "../../ports/slice-driver.ts";
import type { QemuPlaces, SlicePaths } from "./slice-paths.ts";

const ownerSchema = z.object({ allocationId: z.string(), generation: z.int() });

/** Makes the slice's folder with its owner's name in it. Refuses a folder that another slice owns. */
export async function openSliceFolder(paths: SlicePaths, slice: SliceReference): Promise<void> {
  await mkdir(paths.folder, { recursive: true, mode: 0o700 });
  const owner = await readOwner(paths.owner);
  if (owner === null)
    return await replaceFile(
      paths.owner,
      JSON.stringify({ allocationId: slice.allocationId, generation: slice.generation }),
    );
  if (owner.allocationId !== slice.allocationId || owner.generation !== slice.generation) {
    throw new AppError("journal_conflict", { detail: `The folder ${paths.folder} belongs to ${owner.allocationId}.` });
  }
}

/** Removes the folder once nothing but its owner's name and logs are left in it. */
export async function closeSliceFolder(paths: SlicePaths): Promise<void> {
  const left = (await readdir(paths.folder).catch(() => [])).filter(
    (name) => !/^(?:owner\.json|serial\.log|qemu\.log)$/.test(name),
  );
  if (left.length === 0) await rm(paths.folder, { recursive: true, force: true });
}

export async function listSliceFolders(places: QemuPlaces): Promise<SliceReference[]> {
  const root = join(places.stateDir, "slices");
  const names = await readdir(root).catch(() => []);
  const owners = await Promise.all(names.map(async (name) => await readOwner(join(root, name, "owner.json"))));
  return owners.filter((owner) => owner !== null);
}

export async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

/** Writes a file whole or not at all, readable by us only. */
export async function replaceFile(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  try {
    await writeFile(`${path}.new`, text, { mode: 0o600 });
    await rename(`${path}.new`, path);
  } catch (error) {
    await rm(`${path}.new`, { force: true });
    throw translateNoSpace(error, path);
  }
}

export function translateNoSpace(error: unknown, what: string): unknown {
  const isFull = error instanceof Error && "code" in error && (error.code === "ENOSPC" || error.code === "EDQUOT");
  return isFull ? new AppError("disk_full", { detail: `There is no space left for ${what}.`, cause: error }) : error;
}

export async function removeFolderIfEmpty(path: string): Promise<void> {
  await rmdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" && error.code !== "ENOTEMPTY") throw error;
  });
}

async function readOwner(path: string): Promise<z.infer<typeof ownerSchema> | null> {
  const text = await readFile(path, "utf8").catch(() => null);
  return text === null ? null : ownerSchema.parse(JSON.parse(text));
}
