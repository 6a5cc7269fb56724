import { constants } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { makeSpaceReserve, type SpaceReserve } from "./space-reserve.ts";

/** A crashed `replace` leaves this behind; the next one on the same path overwrites it, `remove` takes it along. */
const UNFINISHED = ".unfinished";

/** State files on a real disk: every write is fsynced, the folder too where a name appears or goes. Only the owner may read. */
export function makeDiskFiles(root: string): StateFiles {
  const at = (path: string): string => join(root, path);
  const reserve = makeSpaceReserve(root);
  return {
    read: async (path) => {
      try {
        return await readFile(at(path), "utf8");
      } catch (error) {
        if (isErrno(error, "ENOENT")) return null;
        throw error;
      }
    },
    replace: async (path, text) => {
      await translated(
        path,
        async () =>
          await onAnyDisk(reserve, async () => {
            const target = at(path);
            await makeFolder(dirname(target));
            await writeSynced(
              `${target}${UNFINISHED}`,
              constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC,
              text,
            );
            await rename(`${target}${UNFINISHED}`, target);
            await syncFolder(dirname(target));
          }),
      );
    },
    append: async (path, text) => {
      await translated(path, async () => {
        const target = at(path);
        const append = async (): Promise<boolean> =>
          await writeSynced(target, constants.O_WRONLY | constants.O_CREAT | constants.O_APPEND, text);
        const isNew = await append().catch(async (error: unknown) => {
          if (!isErrno(error, "ENOENT")) throw error;
          await makeFolder(dirname(target));
          return await append();
        });
        if (isNew) await syncFolder(dirname(target));
      });
    },
    remove: async (path) => {
      await rm(`${at(path)}${UNFINISHED}`, { force: true });
      await rm(at(path), { recursive: true, force: true });
      await syncFolder(dirname(at(path)));
    },
    list: async (folder) => {
      try {
        return (await readdir(at(folder))).filter((name) => !name.endsWith(UNFINISHED)).toSorted();
      } catch (error) {
        if (isErrno(error, "ENOENT")) return [];
        throw error;
      }
    },
  };
}

/** Resolves true when the file was empty before, so that its name is made durable too. */
async function writeSynced(path: string, flags: number, text: string): Promise<boolean> {
  const file = await open(path, flags, 0o600);
  try {
    const { size } = await file.stat();
    await file.writeFile(text);
    await file.sync();
    return size === 0;
  } finally {
    await file.close();
  }
}

async function makeFolder(path: string): Promise<void> {
  const firstMade = await mkdir(path, { recursive: true, mode: 0o700 });
  if (firstMade !== undefined) await syncFolder(dirname(firstMade));
}

async function syncFolder(path: string): Promise<void> {
  let folder;
  try {
    folder = await open(path, constants.O_RDONLY);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return;
    throw error;
  }
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** On a full disk each try may take a part of the reserve: a book is small, and written anew as a whole. */
async function onAnyDisk(reserve: SpaceReserve, write: () => Promise<void>): Promise<void> {
  for (;;) {
    try {
      await write();
      break;
    } catch (error) {
      if (!isNoSpace(error) || !(await reserve.spend())) throw error;
    }
  }
  await reserve.refill();
}

async function translated(path: string, write: () => Promise<void>): Promise<void> {
  try {
    await write();
  } catch (error) {
    if (isNoSpace(error))
      throw new AppError("disk_full", { detail: `Writing ${path} failed: no space left.`, cause: error });
    throw error;
  }
}

function isNoSpace(error: unknown): boolean {
  return isErrno(error, "ENOSPC") || isErrno(error, "EDQUOT");
}

function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && "code" in error && error.code === code;
}
