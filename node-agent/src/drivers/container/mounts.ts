import { mkdir } from "node:fs/promises";
import { AppError } from "@hostler/shared/errors.ts";
import { requireSuccess } from "../../host/host-commands.ts";
import { deviceAt, readMounts } from "../../host/mountinfo.ts";
import type { HostCommands } from "../../ports/host-commands.ts";

const TIMEOUT_MS = 30_000;

/** Mounts a slice's disk; one that is mounted there already is left alone. Set-user-id bits and devices on it mean nothing. */
export async function mountDisk(
  commands: HostCommands,
  disk: { readonly path: string; readonly root: string },
  signal: AbortSignal,
): Promise<void> {
  if (await isMounted(disk.root)) return;
  await mkdir(disk.root, { recursive: true, mode: 0o700 });
  const argv = ["mount", "-t", "ext4", "-o", "loop,nosuid,nodev", disk.path, disk.root] as const;
  requireSuccess(argv, await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }));
  if (!(await isMounted(disk.root)))
    throw new AppError("command_failed", {
      detail: `The disk ${disk.path} was mounted, but this agent does not see it.`,
    });
}

/** As often as it is mounted there; the loop device goes with the last mount. */
export async function unmountDisk(commands: HostCommands, root: string, signal: AbortSignal): Promise<void> {
  while (await isMounted(root)) {
    const argv = ["umount", root] as const;
    requireSuccess(argv, await commands.run(argv, { timeoutMs: TIMEOUT_MS, signal }));
  }
}

/** The host's own list, so that it is right also after a crash or a reboot. */
async function isMounted(path: string): Promise<boolean> {
  return (await deviceOfMount(path)) !== null;
}

/** The block device that is mounted there, as `major:minor`; null when nothing is. */
export async function deviceOfMount(path: string): Promise<string | null> {
  return deviceAt(await readMounts(), path);
}
