import { join } from "node:path";
import { AppError, isAppError } from "@hostler/shared/errors.ts";

/** Where the kernel shows its devices. Parameters, so that a made tree of folders can stand for a host. */
export interface PciRoots {
  readonly sysfs: string;
  readonly dev: string;
  readonly proc: string;
}

export const HOST_ROOTS: PciRoots = { sysfs: "/sys", dev: "/dev", proc: "/proc" };

const ADDRESS = /^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/;

/** The folder of one PCI function. An address that is not one never becomes a path. */
export function functionFolder(roots: PciRoots, address: string): string {
  if (!isPciAddress(address))
    throw deviceFault(address, `${JSON.stringify(address)} is not a PCI address such as 0000:86:00.0.`);
  return join(roots.sysfs, "bus/pci/devices", address);
}

export function driverFolder(roots: PciRoots, driver: string): string {
  return join(roots.sysfs, "bus/pci/drivers", driver);
}

export function isPciAddress(text: string): boolean {
  return ADDRESS.test(text);
}

/** A fault of one device: the GPU that it belongs to is not handed out until somebody looked. */
export function deviceFault(
  address: string,
  detail: string,
  { code = "gpu_unavailable", facts = {} }: DeviceFaultMore = {},
): AppError {
  return new AppError(code, { detail, facts: { addresses: [address], ...facts } });
}

interface DeviceFaultMore {
  readonly code?: DeviceFaultCode;
  readonly facts?: Readonly<Record<string, unknown>>;
}

/** The device's own fault, that of a process which has it, or of a kernel that does not come back from it. */
type DeviceFaultCode = "gpu_unavailable" | "gpu_in_use" | "gpu_locked";

export function isDeviceFault(error: unknown): error is AppError {
  return isAppError(error, "gpu_unavailable") || isAppError(error, "gpu_in_use") || isAppError(error, "gpu_locked");
}
