import { readdir, readFile, readlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { deviceFault, functionFolder, isPciAddress, type PciRoots } from "./pci-roots.ts";

/**
 * One function of a PCI device, as sysfs shows it without taking the device's lock. `driver_override` and `sriov_numvfs` are not
 * among them: reading those waits for the lock, and an unbind that hangs never gives it back. Numbers of make and class stay
 * text, as the kernel writes them: `0x10de`.
 */
export interface PciFunction {
  readonly address: string;
  readonly vendor: string;
  readonly device: string;
  readonly class: string;
  readonly driver: string | null;
  /** Null where the firmware does not say. */
  readonly numaNode: number | null;
  /** In the order in which the kernel tries them; empty for a device that cannot be reset. */
  readonly resetMethods: readonly string[];
  readonly iommuGroup: number | null;
  /** A bridge to other devices: it stays with the host when what is behind it is given away. */
  readonly isBridge: boolean;
  readonly isBootDisplay: boolean;
  /** How many virtual functions are switched on. */
  readonly virtualFunctions: number;
}

/** Every PCI function of the host, sorted by address. Rejects with `gpu_unavailable` when one of them cannot be understood. */
export async function readDevices(roots: PciRoots): Promise<readonly PciFunction[]> {
  const names = await readdir(join(roots.sysfs, "bus/pci/devices"));
  const functions: PciFunction[] = [];
  for (const address of names.filter(isPciAddress).toSorted()) {
    const found = await readDevice(roots, address);
    if (found !== null) functions.push(found);
  }
  return functions;
}

/** Null when there is no such function, also when it vanished while it was read. */
export async function readDevice(roots: PciRoots, address: string): Promise<PciFunction | null> {
  const folder = functionFolder(roots, address);
  const text = async (name: string): Promise<string | null> => await readText(join(folder, name));
  const [vendor, device, classCode] = [await text("vendor"), await text("device"), await text("class")];
  if (vendor === null || device === null || classCode === null) return null;
  const number = (name: string, value: string | null, absent: number): number => {
    if (value === null) return absent;
    if (!/^-?\d{1,6}$/.test(value)) throw unreadable(address, name, value);
    return Number(value);
  };
  const numaNode = number("numa_node", await text("numa_node"), -1);
  const group = await linkName(join(folder, "iommu_group"));
  const code = hex({ address, name: "class", value: classCode, digits: 6 });
  return {
    address,
    vendor: hex({ address, name: "vendor", value: vendor, digits: 4 }),
    device: hex({ address, name: "device", value: device, digits: 4 }),
    class: code,
    driver: await linkName(join(folder, "driver")),
    numaNode: numaNode < 0 ? null : numaNode,
    resetMethods: parseResetMethods(address, (await text("reset_method")) ?? ""),
    iommuGroup: group === null ? null : number("iommu_group", group, -1),
    isBridge: code.startsWith("0x0604") || code.startsWith("0x0600"),
    isBootDisplay: (await text("boot_vga")) === "1",
    virtualFunctions: (await readdir(folder).catch(() => [])).filter((name) => /^virtfn\d+$/.test(name)).length,
  };
}

function parseResetMethods(address: string, text: string): readonly string[] {
  const methods = text.split(" ").filter((method) => method !== "");
  if (methods.some((method) => !/^[a-z_]{1,32}$/.test(method))) throw unreadable(address, "reset_method", text);
  return methods;
}

function hex(field: {
  readonly address: string;
  readonly name: string;
  readonly value: string;
  readonly digits: number;
}): string {
  if (!new RegExp(`^0x[0-9a-f]{${field.digits}}$`).test(field.value))
    throw unreadable(field.address, field.name, field.value);
  return field.value;
}

function unreadable(address: string, name: string, value: string): Error {
  const shown = JSON.stringify(value.slice(0, 80));
  return deviceFault(
    address,
    `${address} shows ${name} as ${shown}, which cannot be understood; see lspci -vvs ${address}.`,
  );
}

/** Trimmed; null when the file is not there. A device that left the bus answers ENODEV to the open file. */
async function readText(path: string): Promise<string | null> {
  try {
    return (await readFile(path, "utf8")).trim();
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

async function linkName(path: string): Promise<string | null> {
  try {
    return basename(await readlink(path));
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  return error instanceof Error && "code" in error && ["ENOENT", "ENODEV", "ENOTDIR"].includes(String(error.code));
}
