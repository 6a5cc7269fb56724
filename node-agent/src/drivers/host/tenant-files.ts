import { lstat, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { DiskErasure } from "../../ports/slice-driver.ts";
import { readMounts } from "../../host/mountinfo.ts";
import { eraseFile, FILE_ERASURE } from "../slices/erase-file.ts";
import { filesOf } from "./local-files.ts";

export const TENANT_ERASURE = `${FILE_ERASURE}, of each file that the tenant owned`;
const AS_ROOT = "the tenant had root, and may have given any file of the host its number";
/** What a scan finds is erased, and looked for again. */
const SCANS_MAX = 3;

interface Erasing {
  readonly commands: HostCommands;
  readonly uid: number;
  readonly signal: AbortSignal;
}

/**
 * Erases folders of the tenant, and then everything else on the host's file systems that the tenant owned. No process of the
 * tenant may live: what is looked at here must not become a link to something else. `places` null: the tenant was root, so that the
 * number on a file says nothing, and erasing by it could take the host itself. Says what it did and what it could not prove.
 */
export async function eraseTenantFiles(
  erasing: Erasing,
  { folders, places }: { readonly folders: readonly string[]; readonly places: readonly string[] | null },
): Promise<DiskErasure> {
  let erased = 0;
  for (const folder of folders) {
    await unmountBelow(erasing, folder);
    erased += await eraseTree(erasing, folder);
  }
  if (places === null) return erasureOf(erased, `unproven: everything else, because ${AS_ROOT}`);
  for (let scans = 1; ; scans += 1) {
    const { paths, gap } = await filesOf(erasing.commands, { uid: erasing.uid, places }, erasing.signal);
    if (paths.length === 0 || (gap !== null && scans >= SCANS_MAX)) {
      const scan =
        gap === null
          ? `no file of number ${erasing.uid} is left on ${places.join(", ")}`
          : `unproven: whether files are left elsewhere, because ${gap}`;
      return erasureOf(erased, scan);
    }
    if (scans > SCANS_MAX)
      throw new AppError("command_failed", {
        detail: `Files of the tenant come back or cannot be removed, such as ${paths.slice(0, 3).join(", ")}. Look who makes them.`,
      });
    for (const path of paths) if (!places.includes(path)) erased += await eraseEntry(erasing, path);
  }
}

function erasureOf(erased: number, scan: string): DiskErasure {
  const unproven = "unproven: what programs of the host wrote down of the tenant, and copies that the drive keeps";
  return { method: TENANT_ERASURE, readBack: `${erased} files read back as zeros; ${scan}; ${unproven}` };
}

/** Files first, so that an erasure that was interrupted goes on with what is left. Resolves with how many were erased. */
async function eraseTree(erasing: Erasing, folder: string): Promise<number> {
  let erased = 0;
  for (const entry of await readdir(folder, { withFileTypes: true }).catch(nothingThere)) {
    const path = join(folder, entry.name);
    erased += entry.isDirectory() ? await eraseTree(erasing, path) : await eraseEntry(erasing, path);
  }
  await rm(folder, { recursive: true, force: true });
  return erased;
}

/** A file that somebody else owns is not the tenant's to erase: a second name of it in the tenant's folder goes, and no more. */
async function eraseEntry({ commands, uid, signal }: Erasing, path: string): Promise<number> {
  signal.throwIfAborted();
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (found === null) return 0;
  if (found.isDirectory()) {
    await eraseTree({ commands, uid, signal }, path);
    return 0;
  }
  const isTheirs = found.isFile() && found.uid === uid;
  if (isTheirs) await eraseFile(commands, path, { signal, isCiphertext: false });
  else await rm(path, { force: true });
  return isTheirs ? 1 : 0;
}

/** Removing a folder crosses mounts: what lies behind one may be anything. */
async function unmountBelow({ commands, signal }: Erasing, folder: string): Promise<void> {
  const below = (await readMounts()).filter(({ place }) => place === folder || place.startsWith(`${folder}/`));
  for (const { place } of below.toReversed()) {
    const argv = ["umount", place] as const;
    requireSuccess(argv, await commands.run(argv, { timeoutMs: 30_000, signal }));
  }
}

function nothingThere(error: NodeJS.ErrnoException): [] {
  if (error.code === "ENOENT") return [];
  throw error;
}
