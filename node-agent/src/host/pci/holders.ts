import { readdir, readFile, readlink } from "node:fs/promises";
import { join } from "node:path";
import { functionFolder, type PciRoots } from "./pci-roots.ts";
import type { PciFunction } from "./read-devices.ts";

/** A process that has a device open. */
export interface Holder {
  readonly pid: number;
  readonly command: string;
  readonly path: string;
}

/** The device files through which a process can use the function: of VFIO, by group and by device, and of the NVIDIA driver. */
export async function deviceFilesOf(roots: PciRoots, device: PciFunction): Promise<readonly string[]> {
  const names = await readdir(join(functionFolder(roots, device.address), "vfio-dev")).catch(() => []);
  const minor = await nvidiaMinor(roots, device.address);
  return [
    ...(device.iommuGroup === null ? [] : [join(roots.dev, "vfio", String(device.iommuGroup))]),
    ...names.map((name) => join(roots.dev, "vfio/devices", name)),
    ...(minor === null ? [] : [join(roots.dev, `nvidia${minor}`)]),
  ];
}

/** Who has one of the files open, by process. A process that ends meanwhile holds nothing. */
export async function findHolders(roots: PciRoots, files: readonly string[]): Promise<readonly Holder[]> {
  const wanted = new Set(files);
  const pids = (await readdir(roots.proc)).filter((name) => /^\d+$/.test(name)).map(Number);
  const holders: Holder[] = [];
  for (const pid of pids.toSorted((a, b) => a - b)) {
    const path = await firstOpen(roots, pid, wanted);
    if (path === null) continue;
    const command = await readFile(join(roots.proc, String(pid), "comm"), "utf8").catch(() => "");
    holders.push({ pid, command: command.trim() || "unknown", path });
  }
  return holders;
}

/** For people: `qemu-system-x86 (pid 404) has /dev/vfio/7 open`. */
export function holderWords(holders: readonly Holder[]): string {
  return holders
    .slice(0, 5)
    .map((holder) => `${holder.command} (pid ${holder.pid}) has ${holder.path} open`)
    .join(", ");
}

async function firstOpen(roots: PciRoots, pid: number, wanted: ReadonlySet<string>): Promise<string | null> {
  const folder = join(roots.proc, String(pid), "fd");
  for (const name of await readdir(folder).catch(() => [])) {
    const target = await readlink(join(folder, name)).catch(() => null);
    if (target !== null && wanted.has(target)) return target;
  }
  return null;
}

/** The number of /dev/nvidiaN, from the driver's own page about the device; null when that driver does not have it. */
async function nvidiaMinor(roots: PciRoots, address: string): Promise<string | null> {
  const page = join(roots.proc, "driver/nvidia/gpus", address, "information");
  const text = await readFile(page, "utf8").catch(() => "");
  return /^Device Minor:\s*(\d+)\s*$/m.exec(text)?.[1] ?? null;
}
