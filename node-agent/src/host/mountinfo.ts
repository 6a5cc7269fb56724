import { readFile } from "node:fs/promises";

/** One line of the kernel's list of mounts; a place that is mounted over has several. */
export interface Mount {
  /** Of the block device, `major:minor`. */
  readonly device: string;
  /** Which part of its file system is mounted; `/` is all of it. */
  readonly root: string;
  readonly place: string;
  /** Such as ext4. */
  readonly kind: string;
}

/** The mounts that this process sees, in their order. */
export async function readMounts(): Promise<readonly Mount[]> {
  return parseMountinfo(await readFile("/proc/self/mountinfo", "utf8"));
}

/** Reads the text of `/proc/PID/mountinfo`, where spaces and the like in names are written as \040. Pure. */
export function parseMountinfo(text: string): readonly Mount[] {
  return text.split("\n").flatMap((line) => {
    const [before = "", after = ""] = line.split(" - ");
    const [, , device, root, place] = before.split(" ");
    if (device === undefined || root === undefined || place === undefined) return [];
    return [{ device, root, place: unescaped(place), kind: after.split(" ")[0] ?? "" }];
  });
}

/** The block device that is seen at the place, as `major:minor`: of several mounts there the last one. Null when nothing is mounted. Pure. */
export function deviceAt(mounts: readonly Mount[], path: string): string | null {
  return mounts.findLast(({ place }) => place === path)?.device ?? null;
}

function unescaped(name: string): string {
  return name.replaceAll(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
