import { execFile } from "node:child_process";
import {
  access,
  mkdir,
  open as openFile,
  readdir,
  readFile,
  readlink,
  rm,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { AppError } from "@hostler/shared/errors.ts";
import { exists } from "../../host/exists.ts";
import { isSameSlice, type SliceReference } from "../../ports/slice-driver.ts";
import type { Volumes } from "./volumes.ts";

const run = promisify(execFile);
const TEXT_BYTES = 4096;

/** Whether block devices can be made of files here. */
export async function canMakeLoops(): Promise<boolean> {
  const isThere = await access("/dev/loop-control").then(
    () => true,
    () => false,
  );
  if (!isThere || process.getuid?.() !== 0)
    process.stderr.write("skipped: no block devices are made here (not root)\n");
  return isThere && process.getuid?.() === 0;
}

export interface TestVolumes extends Volumes {
  /** What is on the drive below a volume. */
  textAt(name: string, offset: number): Promise<string>;
  /** Takes the devices away, as a boot of the host does. */
  close(): Promise<void>;
}

/** Volumes as block devices over sparse files: real devices, where this kernel has no LVM. */
export function makeTestVolumes(folder: string): TestVolumes {
  const fileOf = (name: string): string => join(folder, `${name}.img`);
  const ownerOf = (name: string): string => join(folder, `${name}.owner`);
  const devicePath = (name: string): string => join(folder, `${name}.device`);
  const names = async (): Promise<string[]> =>
    (await readdir(folder).catch(() => [])).filter((file) => file.endsWith(".img")).map((file) => file.slice(0, -4));
  const open = async (name: string): Promise<boolean> => {
    if (!(await exists(fileOf(name)))) return false;
    if (await exists(devicePath(name))) return true;
    const args = ["--find", "--show", fileOf(name)];
    // Past the host's memory where the file system below can: a device of zeros is read ten times as fast.
    const { stdout } = await run("losetup", ["--direct-io=on", ...args]).catch(async () => await run("losetup", args));
    await symlink(stdout.trim(), devicePath(name));
    return true;
  };
  const close = async (name: string): Promise<void> => {
    const device = await readlink(devicePath(name)).catch(() => null);
    await rm(devicePath(name), { force: true });
    if (device !== null) await run("losetup", ["--detach", device]);
  };
  return {
    devicePath,
    open,
    create: async (name, { bytes, owner }) => {
      await mkdir(folder, { recursive: true });
      if (!(await exists(fileOf(name)))) {
        await writeFile(ownerOf(name), JSON.stringify(owner));
        await writeFile(fileOf(name), "");
        await truncate(fileOf(name), bytes);
      } else if (!isSameSlice(JSON.parse(await readFile(ownerOf(name), "utf8")) as SliceReference, owner))
        throw new AppError("journal_conflict", { detail: "It is another slice's." });
      await open(name);
    },
    remove: async (name) => {
      await close(name);
      for (const path of [fileOf(name), ownerOf(name)]) await rm(path, { force: true });
    },
    list: async () => (await names()).map((name) => ({ name, hostName: fileOf(name), bytes: 0, owner: null })),
    requireRoom: async () => undefined,
    textAt: async (name, offset) => {
      const file = await openFile(fileOf(name), "r");
      try {
        return (await file.read(Buffer.alloc(TEXT_BYTES), 0, TEXT_BYTES, offset)).buffer.toString("latin1");
      } finally {
        await file.close();
      }
    },
    close: async () => {
      for (const name of await names()) await close(name);
    },
  };
}
