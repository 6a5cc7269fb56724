import { isAppError } from "@hostler/shared/errors.ts";
import { type Mount, readMounts } from "../../host/mountinfo.ts";
import type { HostCommands } from "../../ports/host-commands.ts";

/** Kinds of file systems that keep files of this host, on its disks or in its memory. */
const LOCAL = new Set(
  "ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs jfs reiserfs vfat exfat ntfs3 overlay tmpfs ramfs mqueue hugetlbfs".split(
    " ",
  ),
);
const SCAN_TIMEOUT_MS = 10 * 60_000;
const LIST_BYTES_MAX = 64 * 1024 ** 2;

/** Each mounted file system that keeps files here, once: by its root where that is mounted, else by all places it is mounted at. Pure. */
export function localFileSystems(mounts: readonly Mount[]): readonly string[] {
  const local = mounts.filter(({ kind }) => LOCAL.has(kind));
  return [...Map.groupBy(local, ({ device }) => device).values()].flatMap((same) => {
    const whole = same.find(({ root }) => root === "/");
    return (whole === undefined ? same : [whole]).map(({ place }) => place);
  });
}

export async function readLocalFileSystems(): Promise<readonly string[]> {
  return localFileSystems(await readMounts());
}

export interface Scan {
  readonly paths: readonly string[];
  /** Why not everything was looked at; null when it was. */
  readonly gap: string | null;
}

/** Everything below these places that a user or a group of this number owns, deepest first. Does not follow mounts or links. */
export async function filesOf(
  commands: HostCommands,
  { uid, places }: { readonly uid: number; readonly places: readonly string[] },
  signal: AbortSignal,
): Promise<Scan> {
  if (places.length === 0) return { paths: [], gap: "no file system was named" };
  const isTheirs = ["(", "-uid", String(uid), "-o", "-gid", String(uid), ")"];
  const argv = ["find", ...places, "-xdev", "-ignore_readdir_race", "-depth", ...isTheirs, "-print0"] as const;
  try {
    const options = { timeoutMs: SCAN_TIMEOUT_MS, signal, outputBytesMax: LIST_BYTES_MAX };
    const { exitCode, stdout, stderr } = await commands.run(argv, options);
    const paths = stdout.split("\0").filter((path) => path !== "");
    if (exitCode !== 0) return { paths, gap: `find could not look everywhere: ${stderr.trim().slice(0, 300)}` };
    return { paths, gap: null };
  } catch (error) {
    if (isAppError(error, "command_timeout"))
      return { paths: [], gap: `the scan did not end within ${SCAN_TIMEOUT_MS / 60_000} minutes` };
    throw error;
  }
}
