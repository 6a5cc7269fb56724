import { mkdir, open, readdir, readFile, rename, rm, rmdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { type CreateContext, isSameSlice, type SliceReference } from "../../ports/slice-driver.ts";
import type { QemuPlaces, SlicePaths } from "./slice-paths.ts";

const ownerSchema = z.object({
  allocationId: z.string(),
  generation: z.int(),
  /** The highest grant that made something here. */
  fence: z.string(),
});

/** Who is opening a folder now. */
const opening = new Map<string, Promise<unknown>>();

/**
 * Makes the slice's folder with its owner's name and the acting grant in it. Refuses a folder that another slice owns, and a
 * grant below the one that acted last: whatever it would make, a later holder of the task may already have made.
 */
export async function openSliceFolder(
  paths: SlicePaths,
  slice: SliceReference,
  context: Pick<CreateContext, "fence">,
): Promise<void> {
  // Objects of one slice are made side by side, and each opens the folder.
  const mine = (opening.get(paths.folder) ?? Promise.resolve()).then(
    async () => await claimFolder(paths, slice, context),
  );
  const settled = mine.catch(() => "Its caller hears of it.");
  opening.set(paths.folder, settled);
  void settled.then(() => opening.get(paths.folder) === settled && opening.delete(paths.folder));
  await mine;
}

async function claimFolder(
  paths: SlicePaths,
  slice: SliceReference,
  { fence }: Pick<CreateContext, "fence">,
): Promise<void> {
  await mkdir(paths.folder, { recursive: true, mode: 0o700 });
  const owner = await readOwner(paths.owner);
  if (owner !== null && !isSameSlice(owner, slice))
    throw new AppError("journal_conflict", { detail: `The folder ${paths.folder} belongs to ${owner.allocationId}.` });
  if (owner !== null && BigInt(fence) < BigInt(owner.fence))
    throw new AppError("lease_stale", {
      detail: `The slice was touched under the fence ${owner.fence}; this grant has ${fence}.`,
    });
  if (owner?.fence === fence) return;
  const { allocationId, generation } = slice;
  await replaceFile(paths.owner, JSON.stringify({ allocationId, generation, fence }));
}

/** Removes the folder once nothing but its owner's name and logs are left in it. */
export async function closeSliceFolder(paths: SlicePaths): Promise<void> {
  const names = await readdir(paths.folder).catch(() => []);
  if (names.every((name) => /^(?:owner\.json|history\.json(?:\.new)?|\w+\.log)$/.test(name)))
    await rm(paths.folder, { recursive: true, force: true });
}

/** Whether the folder is one of another slice with the same short name. */
export async function belongsToAnother(paths: Pick<SlicePaths, "owner">, slice: SliceReference): Promise<boolean> {
  const owner = await readOwner(paths.owner);
  return owner !== null && !isSameSlice(owner, slice);
}

export async function listSliceFolders(places: QemuPlaces): Promise<SliceReference[]> {
  const root = join(places.stateDir, "slices");
  const names = await readdir(root).catch(() => []);
  const owners = await Promise.all(names.map(async (name) => await readOwner(join(root, name, "owner.json"))));
  return owners.filter((owner) => owner !== null).map(({ allocationId, generation }) => ({ allocationId, generation }));
}

/** Writes a file whole or not at all, readable by us only; it survives a power cut. */
export async function replaceFile(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  try {
    const file = await open(`${path}.new`, "w", 0o600);
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await rm(`${path}.new`, { force: true });
    throw translateNoSpace(error, path);
  }
}

export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

export function translateNoSpace(error: unknown, what: string): unknown {
  const isFull = error instanceof Error && "code" in error && (error.code === "ENOSPC" || error.code === "EDQUOT");
  return isFull ? new AppError("disk_full", { detail: `There is no space left for ${what}.`, cause: error }) : error;
}

export async function removeFolderIfEmpty(path: string): Promise<void> {
  await rmdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" && error.code !== "ENOTEMPTY" && error.code !== "EBUSY") throw error;
  });
}

async function readOwner(path: string): Promise<z.infer<typeof ownerSchema> | null> {
  const text = await readFile(path, "utf8").catch(() => null);
  return text === null ? null : ownerSchema.parse(JSON.parse(text));
}
