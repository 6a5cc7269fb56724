import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { requireAnswering } from "../../host/pci/answering.ts";
import { requireDevice } from "../../host/pci/pci-deps.ts";
import { functionFolder, isDeviceFault, isPciAddress } from "../../host/pci/pci-roots.ts";
import type { PciFunction } from "../../host/pci/read-devices.ts";
import type { Facts } from "../../ports/slice-driver.ts";
import { factsOfSeen, missingOf } from "../slices/promised-devices.ts";

const factsSchema = z.looseObject({ pciAddresses: z.array(z.string()).default([]) });
const MIB = 1024 * 1024;
/** What OVMF leaves for large BARs by itself. */
const WINDOW_MIB_MIN = 32 * 1024;
/** A 64-bit region of memory, from the flags that the kernel shows. */
const IS_LARGE_MEMORY = 0x00100200;

/** The devices that phase `bind` took for the slice, in its order; none when it had nothing to take. */
export function passedThrough(facts: Readonly<Record<string, Facts>>): readonly string[] {
  const { pciAddresses } = factsSchema.parse(facts["bind"] ?? {});
  const wrong = pciAddresses.filter((address) => !isPciAddress(address));
  if (wrong.length > 0)
    throw new AppError("command_failed", {
      detail: `${JSON.stringify(wrong[0])} is not a PCI address such as 0000:86:00.0.`,
    });
  return pciAddresses;
}

/**
 * MiB of addresses above 4 GiB that UEFI must keep free for the BARs of these devices: a power of two with room for their
 * alignment. Null without devices.
 */
export async function windowMib(sysfs: string, addresses: readonly string[]): Promise<number | null> {
  if (addresses.length === 0) return null;
  const roots = { sysfs, dev: "", proc: "" };
  const texts = addresses.map(
    async (address) => await readFile(join(functionFolder(roots, address), "resource"), "utf8").catch(() => ""),
  );
  const sizes = (await Promise.all(texts)).flatMap(largeRegionsMib);
  const neededMib = 2 * sizes.reduce((sum, size) => sum + size, 0);
  return Math.max(WINDOW_MIB_MIN, 2 ** Math.ceil(Math.log2(Math.max(1, neededMib))));
}

/**
 * Compares what the guest found on its bus (`vendor:device`; null when it named nothing) with the functions that phase `bind`
 * gave it. Rejects with `gpu_unavailable` when one that it misses does not answer the host either, and with `gpu_not_in_guest`
 * when it does: a guest's word alone takes no card out of service, for a tenant can make a guest say anything.
 */
export async function requireInGuest(
  sysfs: string,
  facts: Readonly<Record<string, Facts>>,
  seen: readonly string[] | null,
): Promise<Facts> {
  const roots = { sysfs, dev: "", proc: "" };
  const addresses = passedThrough(facts);
  try {
    const given = await Promise.all(addresses.map(async (address) => await requireDevice({ roots }, address)));
    const ids = given.map(idOf);
    const missing = seen === null ? [] : missingOf(ids, seen);
    for (const device of given) if (missing.includes(idOf(device))) await requireAnswering(roots, device);
    if (missing.length === 0) return factsOfSeen(ids, seen);
    throw new AppError("gpu_not_in_guest", {
      detail: `Given: ${ids.join(" ")}. Missing: ${missing.join(" ")}. The guest found: ${seen?.join(" ") || "nothing"}. On the host they answer.`,
    });
  } catch (error) {
    if (!isDeviceFault(error)) throw error;
    const { gpuUuids } = facts["bind"] ?? {};
    throw new AppError(error.code, { detail: error.message, facts: { ...error.facts, gpuUuids }, cause: error });
  }
}

/** As an operating system names it: `10de:2330`. */
function idOf({ vendor, device }: PciFunction): string {
  return [vendor, device].map((word) => word.slice("0x".length)).join(":");
}

/** One line a region: first address, last address, flags. */
function largeRegionsMib(text: string): readonly number[] {
  return text.split("\n").flatMap((line) => {
    const [first, last, flags] = line.trim().split(/\s+/);
    if (first === undefined || last === undefined || flags === undefined) return [];
    // oxlint-disable-next-line no-bitwise -- Flags are bits.
    const isLarge = (Number(flags) & IS_LARGE_MEMORY) === IS_LARGE_MEMORY;
    return isLarge ? [Number((BigInt(last) - BigInt(first) + 1n) / BigInt(MIB))] : [];
  });
}
