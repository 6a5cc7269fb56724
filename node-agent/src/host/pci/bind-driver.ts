import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { exists } from "../exists.ts";
import { AppError } from "@hostler/shared/errors.ts";
import * as z from "zod";
import { readOverride, requireDevice, requireNoHolder, writeAttribute, writeFor, type PciDeps } from "./pci-deps.ts";
import { deviceFault, driverFolder, functionFolder, isPciAddress } from "./pci-roots.ts";
import type { PciFunction } from "./read-devices.ts";

export const VFIO_DRIVER = "vfio-pci";
/** A device that VFIO lets sleep may never wake again (D3cold); the option keeps it awake while nobody uses it. */
const MODULE_OPTIONS: Readonly<Record<string, readonly string[]>> = { [VFIO_DRIVER]: ["disable_idle_d3=1"] };
const MODPROBE_TIMEOUT_MS = 60_000;
/** Closing a GPU's driver takes seconds on real hosts. */
const UNBIND_TIMEOUT_MS = 60_000;
const ATTEMPTS = 10;
const BETWEEN_ATTEMPTS_MS = 50;

/** What a function was before it was bound: enough to bring it back. Kept on disk by the caller before the first write. */
export const formerStateSchema = z.object({
  address: z.string().refine(isPciAddress),
  vendor: z.string(),
  device: z.string(),
  driver: z.string().nullable(),
  driverOverride: z.string().nullable(),
  /** Null where the kernel has no such file. */
  d3coldAllowed: z.string().nullable(),
  powerControl: z.string().nullable(),
});
export type FormerState = z.infer<typeof formerStateSchema>;

/** Changes nothing. An override without its driver is what a crash between the two leaves: it was never the former state. */
export async function readFormerState(deps: PciDeps, device: PciFunction, signal: AbortSignal): Promise<FormerState> {
  const folder = functionFolder(deps.roots, device.address);
  const override = await readOverride(deps, device, signal);
  const isLeftover = override === VFIO_DRIVER && device.driver === null;
  return {
    address: device.address,
    vendor: device.vendor,
    device: device.device,
    driver: device.driver,
    driverOverride: isLeftover ? null : override,
    d3coldAllowed: await readAttribute(join(folder, "d3cold_allowed")),
    powerControl: await readAttribute(join(folder, "power/control")),
  };
}

/**
 * Gives all the functions to VFIO. Idempotent: a function that it has already is left alone, one that a crash left without a
 * driver is bound. First every function's override, so that no other driver takes one while the next is moved.
 */
export async function bindFunctions(deps: PciDeps, addresses: readonly string[], signal: AbortSignal): Promise<void> {
  const devices = [];
  for (const address of addresses) devices.push(await requireDevice(deps, address));
  const wanted = devices.filter((device) => device.driver !== VFIO_DRIVER);
  if (wanted.length > 0) await requireDriver(deps, VFIO_DRIVER, signal);
  for (const device of wanted) await requireNoHolder(deps, device);
  // Also of a function that VFIO has: a release that was broken off may have cleared its override already.
  for (const device of devices) await setOverride(deps, device, { override: VFIO_DRIVER, signal });
  for (const device of devices) await writeIfThere(deps, device, ["d3cold_allowed", "0"]);
  for (const device of wanted) await bindOne(deps, device, signal);
  for (const device of devices) await writeIfThere(deps, device, ["power/control", "on"]);
}

/**
 * Brings the functions back to what they were. Idempotent. A function that had no driver gets the one that the kernel finds for
 * it, if any. Rejects when one is in use, has left the bus, or does not go back to its driver.
 */
export async function releaseFunctions(
  deps: PciDeps,
  former: readonly FormerState[],
  signal: AbortSignal,
): Promise<void> {
  for (const state of former) await releaseOne(deps, state, signal);
}

async function bindOne(deps: PciDeps, device: PciFunction, signal: AbortSignal): Promise<void> {
  await unbind(deps, device);
  await probe(deps, device);
  const driver = await awaitDriver(deps, device.address, { wanted: VFIO_DRIVER, signal });
  if (driver !== VFIO_DRIVER)
    throw deviceFault(
      device.address,
      `${device.address} was offered to ${VFIO_DRIVER} and has ${driver === null ? "no driver" : `driver ${driver}`}; see dmesg.`,
    );
}

async function releaseOne(deps: PciDeps, former: FormerState, signal: AbortSignal): Promise<void> {
  const device = await requireDevice(deps, former.address);
  requireSameDevice(device, former);
  const isBack = device.driver !== null && device.driver === (former.driver ?? naturalDriver(device));
  if (!isBack && device.driver !== null) await requireNoHolder(deps, device);
  if (former.driver !== null) await requireDriver(deps, former.driver, signal);
  await setOverride(deps, device, { override: former.driverOverride, signal });
  if (!isBack) {
    await unbind(deps, device);
    await restorePower(deps, device, former);
    await probe(deps, device);
  }
  if (former.driver === null) return;
  const driver = await awaitDriver(deps, device.address, { wanted: former.driver, signal });
  if (driver !== former.driver)
    throw deviceFault(
      device.address,
      `${device.address} did not go back to its driver ${former.driver} and has ${driver ?? "none"}; see dmesg.`,
    );
  await restorePower(deps, device, former);
}

async function setOverride(
  deps: PciDeps,
  device: PciFunction,
  wanted: { readonly override: string | null; readonly signal: AbortSignal },
): Promise<void> {
  if ((await readOverride(deps, device, wanted.signal)) === wanted.override) return;
  // An empty line clears it.
  await writeOrThrow(deps, device, ["driver_override", wanted.override ?? ""]);
}

/** Any but VFIO: what the kernel found for a function that had none. */
function naturalDriver(device: PciFunction): string | null {
  return device.driver === VFIO_DRIVER ? null : device.driver;
}

/** After a restart of the host another card may answer at the address. */
function requireSameDevice(device: PciFunction, former: FormerState): void {
  if (device.vendor === former.vendor && device.device === former.device) return;
  throw deviceFault(
    device.address,
    `${device.address} is ${device.vendor}:${device.device} and was ${former.vendor}:${former.device} when it was bound: the cards of the host were changed.`,
  );
}

async function unbind(deps: PciDeps, device: PciFunction): Promise<void> {
  const before = await requireDevice(deps, device.address);
  if (before.driver === null) return;
  const result = await writeAttribute(deps, before, {
    name: "driver/unbind",
    text: device.address,
    timeoutMs: UNBIND_TIMEOUT_MS,
  });
  if (result.state === "written" || (await requireDevice(deps, device.address)).driver === null) return;
  throw deviceFault(device.address, `${before.driver} does not let go of ${device.address}: ${result.message}`);
}

/** Offers the function to the drivers. A refusal shows in the driver that it has afterwards. */
async function probe(deps: PciDeps, device: PciFunction): Promise<void> {
  const path = join(deps.roots.sysfs, "bus/pci/drivers_probe");
  const result = await writeFor(deps, device, { path, text: device.address });
  if (result.state === "refused" && !["EINVAL", "ENODEV", "EBUSY", "EIO"].includes(result.errno))
    throw deviceFault(device.address, `${device.address} cannot be offered to a driver: ${result.message}`);
}

async function awaitDriver(
  deps: PciDeps,
  address: string,
  options: { readonly wanted: string; readonly signal: AbortSignal },
): Promise<string | null> {
  for (let attempt = 1; ; attempt += 1) {
    const { driver } = await requireDevice(deps, address);
    if (driver === options.wanted || attempt === ATTEMPTS) return driver;
    await deps.clock.sleep(BETWEEN_ATTEMPTS_MS, options.signal);
  }
}

/** Loads the driver's module where the kernel does not have it yet. */
async function requireDriver(deps: PciDeps, driver: string, signal: AbortSignal): Promise<void> {
  if (await exists(driverFolder(deps.roots, driver))) return;
  const argv = ["modprobe", driver, ...(MODULE_OPTIONS[driver] ?? [])] as const;
  const result = await deps.commands.run(["modprobe", ...argv.slice(1)], { timeoutMs: MODPROBE_TIMEOUT_MS, signal });
  if (await exists(driverFolder(deps.roots, driver))) return;
  const words = result.stderr.trim().slice(0, 500) || `modprobe ended with ${result.exitCode}`;
  throw new AppError("driver_unavailable", {
    detail: `The kernel has no driver ${driver}: ${words}. Install the kernel's modules, or load the one that brings it.`,
  });
}

async function restorePower(deps: PciDeps, device: PciFunction, former: FormerState): Promise<void> {
  if (former.d3coldAllowed !== null) await writeIfThere(deps, device, ["d3cold_allowed", former.d3coldAllowed]);
  if (former.powerControl !== null) await writeIfThere(deps, device, ["power/control", former.powerControl]);
}

/** Writes only what differs: a kernel without power management has no such file. */
async function writeIfThere(
  deps: PciDeps,
  device: PciFunction,
  [name, text]: readonly [string, string],
): Promise<void> {
  const current = await readAttribute(join(functionFolder(deps.roots, device.address), name));
  if (current !== null && current !== text) await writeOrThrow(deps, device, [name, text]);
}

async function writeOrThrow(
  deps: PciDeps,
  device: PciFunction,
  [name, text]: readonly [string, string],
): Promise<void> {
  const result = await writeAttribute(deps, device, { name, text });
  if (result.state === "refused")
    throw deviceFault(
      device.address,
      `The kernel refuses ${name} of ${device.address} (${result.errno}): ${result.message}`,
    );
}

async function readAttribute(path: string): Promise<string | null> {
  return await readFile(path, "utf8").then(
    (text) => text.trim(),
    () => null,
  );
}
