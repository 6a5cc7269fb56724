import { requireAnswering } from "./answering.ts";
import { VFIO_DRIVER } from "./bind-driver.ts";
import { requireDevice, requireNoHolder, writeAttribute, type PciDeps } from "./pci-deps.ts";
import { deviceFault } from "./pci-roots.ts";
import type { PciFunction } from "./read-devices.ts";

/** Strongest first: a reset of the bus also clears what a function's own reset leaves in a GPU's security processor. */
const ORDER: readonly string[] = ["bus", "device_specific", "flr", "af_flr", "acpi", "pm"];
const TIMEOUT_MS = 60_000;

export interface Reset {
  readonly kind: string;
  /** The stronger methods that the kernel refused, each with its reason. */
  readonly passedOver: readonly string[];
}

/**
 * Resets one function that no driver but VFIO has, with the strongest method that works, and resolves with it. The
 * kernel's own order of methods is as before afterwards, also when all were refused.
 */
export async function resetDevice(deps: PciDeps, address: string): Promise<Reset> {
  const device = await requireDevice(deps, address);
  if (device.driver !== null && device.driver !== VFIO_DRIVER)
    throw deviceFault(address, `${address} is in the hands of driver ${device.driver} and is not reset under it.`);
  await requireNoHolder(deps, device);
  await requireAnswering(deps.roots, device);
  const methods = ORDER.filter((method) => device.resetMethods.includes(method));
  if (methods.length === 0)
    throw deviceFault(
      address,
      `${address} cannot be reset: the kernel knows no method for it, so what the last user left in it stays. It is not handed out.`,
    );
  const refusals: string[] = [];
  const done = await firstThatWorks(deps, device, { methods, refusals });
  await restoreOrder(deps, device);
  if (done === null) throw deviceFault(address, `${address} cannot be reset: ${refusals.join("; ")}`);
  await requireAnswering(deps.roots, await requireDevice(deps, address));
  return { kind: done, passedOver: refusals };
}

async function firstThatWorks(
  deps: PciDeps,
  device: PciFunction,
  plan: { readonly methods: readonly string[]; readonly refusals: string[] },
): Promise<string | null> {
  for (const method of plan.methods) {
    const chosen = await writeAttribute(deps, device, { name: "reset_method", text: method });
    const result =
      chosen.state === "written"
        ? await writeAttribute(deps, device, { name: "reset", text: "1", timeoutMs: TIMEOUT_MS })
        : chosen;
    if (result.state === "written") return method;
    plan.refusals.push(`${method}: ${result.errno} ${result.message}`);
  }
  return null;
}

/** Written back as it was read. The kernel's order is also what VFIO uses when it opens the device. */
async function restoreOrder(deps: PciDeps, device: PciFunction): Promise<void> {
  const now = (await requireDevice(deps, device.address)).resetMethods.join(" ");
  const before = device.resetMethods.join(" ");
  if (now === before) return;
  const result = await writeAttribute(deps, device, { name: "reset_method", text: before });
  if (result.state === "refused")
    throw deviceFault(
      device.address,
      `The reset methods of ${device.address} were ${before} and cannot be set back: ${result.message}`,
    );
}
