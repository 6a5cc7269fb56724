import type { PciFunction } from "./read-devices.ts";

/** Whether a GPU can be given away without anything that is not part of it. */
export type GroupVerdict =
  | {
      readonly state: "isolated";
      readonly group: number;
      /** All that must move together, the GPU first: its sound, USB-C and serial functions go with it, bridges stay. */
      readonly functions: readonly PciFunction[];
    }
  | { readonly state: "refused"; readonly reason: GroupRefusal; readonly why: string };

export type GroupRefusal = "unknown" | "no_iommu" | "boot_display" | "virtual_functions" | "foreign_device";

/** Kinds of function that a graphics card carries beside the GPU itself, by the first digits of their class. */
const COMPANION_CLASSES = ["0x03", "0x0403", "0x0c03", "0x0c80", "0x0700", "0x0780"];

/**
 * Judges one GPU by all functions of the host. The kernel isolates whole groups: with a foreign device in it, that device's
 * driver could reach the tenant's memory and the tenant could reach the device, so the group is refused whatever drives it.
 */
export function judgeGroup(devices: readonly PciFunction[], address: string): GroupVerdict {
  const gpu = devices.find((device) => device.address === address);
  if (gpu === undefined)
    return refused(
      "unknown",
      `The host has no PCI function ${address}: it may have fallen off the bus; see lspci and dmesg.`,
    );
  if (gpu.iommuGroup === null)
    return refused(
      "no_iommu",
      `${address} is in no IOMMU group: switch on VT-d or AMD-Vi in the firmware, boot Linux with intel_iommu=on (Intel), and restart the host.`,
    );
  const members = devices.filter((device) => device.iommuGroup === gpu.iommuGroup && !device.isBridge);
  const display = members.find((device) => device.isBootDisplay);
  if (display !== undefined)
    return refused(
      "boot_display",
      `${display.address} shows the host's own console: choose another primary display in the firmware, and restart the host.`,
    );
  const divided = members.find((device) => device.virtualFunctions > 0);
  if (divided !== undefined)
    return refused(
      "virtual_functions",
      `${divided.address} has ${divided.virtualFunctions} virtual functions switched on: write 0 to its sriov_numvfs first.`,
    );
  const foreign = members.find((device) => device !== gpu && !isCompanion(gpu, device));
  if (foreign !== undefined)
    return refused(
      "foreign_device",
      `${address} shares IOMMU group ${gpu.iommuGroup} with ${foreign.address} (${foreign.vendor}:${foreign.device}, class ${foreign.class}, ${driverWords(foreign)}): move one of the two to another slot, or switch on ACS in the firmware.`,
    );
  const others = members.filter((device) => device !== gpu);
  return { state: "isolated", group: gpu.iommuGroup, functions: [gpu, ...others] };
}

function isCompanion(gpu: PciFunction, device: PciFunction): boolean {
  return slotOf(gpu) === slotOf(device) && COMPANION_CLASSES.some((prefix) => device.class.startsWith(prefix));
}

function slotOf(device: PciFunction): string {
  return device.address.slice(0, device.address.lastIndexOf("."));
}

function driverWords(device: PciFunction): string {
  return device.driver === null ? "no driver" : `driver ${device.driver}`;
}

function refused(reason: GroupRefusal, why: string): GroupVerdict {
  return { state: "refused", reason, why };
}
