import { oneAtATime } from "@hostler/shared/one-at-a-time.ts";
import { cardOf, placeOf } from "@hostler/shared/gpu-slots.ts";
import { readBootId } from "../../host/facts.ts";
import type { PciRoots } from "../../host/pci/pci-roots.ts";
import type { GpuGrant } from "../../ports/gpu-host.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import type { Passthrough } from "../passthrough/make-passthrough.ts";
import { slotHeldBy, slotRefused } from "../slot-refused.ts";
import { grantOf } from "./device-nodes.ts";
import type { DriverGpus } from "./driver-gpus.ts";
import type { SlotHold, SlotHolds } from "./slot-holds.ts";

/** Slots of containers: the GPU stays with the host's driver, and the container gets its device nodes. */
export interface DeviceNodeSlots {
  holdOf(slotId: string): Promise<SlotHold | null>;
  ownerOf(slotId: string): Promise<string | null>;
  bind(slotId: string, owner: string, signal: AbortSignal): Promise<GpuGrant>;
  unbind(slotId: string, owner: string): Promise<void>;
  /** The instance is destroyed: nothing of the slot is left. */
  forget(slotId: string, owner: string): Promise<void>;
}

export function makeDeviceNodeSlots(deps: {
  readonly commands: HostCommands;
  readonly roots: PciRoots;
  readonly hasToolkit: boolean;
  readonly driver: DriverGpus;
  readonly passthrough: Passthrough;
  readonly holds: SlotHolds;
}): DeviceNodeSlots {
  const { holds, passthrough, driver } = deps;
  // Two slices must not both find a slot free.
  const inTurn = oneAtATime();
  const take = async (slotId: string, owner: string): Promise<SlotHold> => {
    const bootId = await readBootId(deps.roots.proc);
    const held = await holds.read(slotId);
    if (held !== null && held.owner !== owner) throw slotHeldBy(slotId, held.owner);
    const other = await passthrough.ownerOf(cardOf(slotId));
    if (other !== null) throw slotHeldBy(slotId, other);
    if (placeOf(slotId) !== null && (held?.bootId !== bootId || held.instance === null))
      throw slotRefused(slotId, "Its MIG instance is not there.");
    const hold = { slotId, owner, bootId, isBound: true, instance: held?.instance ?? null };
    await holds.write(hold);
    return hold;
  };
  return {
    holdOf: holds.read,
    ownerOf: async (slotId) => {
      const held = await holds.read(slotId);
      return held?.isBound === true ? held.owner : null;
    },
    bind: async (slotId, owner, signal) => {
      const gpuUuid = cardOf(slotId);
      const gpu = (await driver.list(signal)).find((each) => each.uuid === gpuUuid);
      if (gpu === undefined) throw slotRefused(slotId, "The driver does not show its GPU.");
      const { instance } = await inTurn(async () => await take(slotId, owner));
      return await grantOf(deps, { gpuUuid, pciAddress: gpu.pciAddress, instance }, signal);
    },
    unbind: async (slotId, owner) =>
      await inTurn(async () => {
        const held = await holds.read(slotId);
        if (held?.owner !== owner) return;
        // The hold of a MIG slot stays until its instance is known to be gone.
        if (placeOf(slotId) === null) await holds.remove(slotId);
        else await holds.write({ ...held, isBound: false });
      }),
    forget: async (slotId, owner) =>
      await inTurn(async () => {
        if ((await holds.read(slotId))?.owner === owner) await holds.remove(slotId);
      }),
  };
}
