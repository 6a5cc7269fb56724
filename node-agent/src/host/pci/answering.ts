import { open, readlink } from "node:fs/promises";
import { join } from "node:path";
import { deviceFault, functionFolder, type PciRoots } from "./pci-roots.ts";
import type { PciFunction } from "./read-devices.ts";

/** What every PCI function has, whatever its kind. */
const HEADER_BYTES = 64;

/**
 * A device that is lost, or that did not come back from a reset, answers every read with ones. A virtual function shows ones
 * as its vendor by its standard (SR-IOV, 3.4.1.1), and something else behind it.
 */
export async function requireAnswering(roots: PciRoots, device: PciFunction): Promise<void> {
  const header = await readHeader(roots, device.address);
  const vendor = header === null ? "nothing" : `0x${header.readUInt16LE(0).toString(16).padStart(4, "0")}`;
  if (vendor === device.vendor) return;
  const isVirtual = vendor === "0xffff" && (await isVirtualFunction(roots, device.address));
  if (isVirtual && header?.subarray(4).some((byte) => byte !== 0xff) === true) return;
  throw deviceFault(
    device.address,
    `${device.address} does not answer: its configuration reads ${vendor} instead of ${device.vendor}. It fell off the bus; restart the host.`,
  );
}

async function isVirtualFunction(roots: PciRoots, address: string): Promise<boolean> {
  return await readlink(join(functionFolder(roots, address), "physfn")).then(
    () => true,
    () => false,
  );
}

async function readHeader(roots: PciRoots, address: string): Promise<Buffer | null> {
  const file = await open(join(functionFolder(roots, address), "config")).catch(() => null);
  if (file === null) return null;
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(HEADER_BYTES), 0, HEADER_BYTES, 0);
    return bytesRead === HEADER_BYTES ? buffer : null;
  } catch {
    // The device left the bus between open and read; no answer is what this reports.
    return null;
  } finally {
    await file.close();
  }
}
