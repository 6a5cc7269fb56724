import type { Clock } from "@hostler/shared/clock.ts";
import { AppError, describeError } from "@hostler/shared/errors.ts";
import type { GpuSlot, MigPlace } from "@hostler/shared/gpu-slots.ts";
import type { Gpu, MigProfileOffer } from "@hostler/shared/node-protocol.ts";
import type { Log } from "../../log.ts";
import type { MigCard, MigSlot } from "../mig/mig-card.ts";
import { migOfferOf } from "../mig/mig-profile.ts";
import { slotHeldBy } from "../slot-refused.ts";
import type { SlotHolds } from "./slot-holds.ts";

/** The cards that the host hands out in parts. */
export interface MigPool {
  has(gpu: Pick<Gpu, "uuid" | "index">): boolean;
  /**
   * What the card can be divided into. A card that was given to MIG is put into that mode when nothing uses it; until then the
   * answer says why it is not.
   */
  offerOf(uuid: string, signal: AbortSignal): Promise<readonly MigProfileOffer[] | { readonly fault: string }>;
  /** Makes a new instance for the owner, or goes on with the one that it made before. */
  carve(slot: MigSlotOf, owner: string, signal: AbortSignal): Promise<MigSlot>;
  /** Destroys the owner's instance; one of another owner is left alone. */
  destroy(slot: MigSlotOf, owner: string, signal: AbortSignal): Promise<void>;
}

export interface MigSlotOf extends GpuSlot {
  readonly slotId: string;
  readonly place: MigPlace;
}

export interface MigPoolDeps {
  readonly cards: MigCard;
  readonly holds: SlotHolds;
  readonly clock: Clock;
  readonly log: Log;
  /** UUIDs or indexes of the cards, or `all` that can. */
  readonly chosen: readonly string[];
  readonly bootId: () => Promise<string>;
  /** Resets a card so that a mode that waits for it takes effect. */
  readonly resetCard: (uuid: string, signal: AbortSignal) => Promise<void>;
}

/** A card that could not be switched is tried again, but not by every reading of the inventory. */
const RETRY_MS = 60_000;

export function makeMigPool(deps: MigPoolDeps): MigPool {
  const offers = new Map<string, readonly MigProfileOffer[]>();
  const refusals = new Map<string, { readonly fault: string; readonly atMs: number }>();
  return {
    has: ({ uuid, index }) =>
      deps.chosen.includes("all") || deps.chosen.includes(uuid) || deps.chosen.includes(String(index)),
    offerOf: async (uuid, signal) => {
      const known = offers.get(uuid);
      if (known !== undefined) return known;
      const refusal = refusals.get(uuid);
      if (refusal !== undefined && deps.clock.monotonicMs() < refusal.atMs + RETRY_MS) return refusal;
      try {
        const offer = await switchOn(deps, uuid, signal);
        offers.set(uuid, offer);
        refusals.delete(uuid);
        return offer;
      } catch (error) {
        signal.throwIfAborted();
        const fault = `It is given to MIG and cannot be divided: ${describeError(error)}`.slice(0, 500);
        refusals.set(uuid, { fault, atMs: deps.clock.monotonicMs() });
        deps.log.warn({ gpuUuid: uuid, fault }, "a card cannot be divided");
        return { fault };
      }
    },
    carve: async (slot, owner, signal) => {
      try {
        return await carve(deps, slot, owner, signal);
      } catch (error) {
        // The card may have lost its mode, or its table changed with the driver: look again.
        offers.delete(slot.gpuUuid);
        throw error;
      }
    },
    destroy: async (slot, owner, signal) => await destroy(deps, slot, owner, signal),
  };
}

async function switchOn(deps: MigPoolDeps, uuid: string, signal: AbortSignal): Promise<readonly MigProfileOffer[]> {
  let card = await deps.cards.read(uuid, signal);
  if (card.mode.current !== "enabled") {
    const change = await deps.cards.enable(uuid, signal);
    if (change.kind === "reset_needed") await deps.resetCard(uuid, signal);
    if (change.isPersistenceOff)
      deps.log.warn({ gpuUuid: uuid }, "MIG may be lost when the driver is unloaded: switch persistence mode on");
    card = await deps.cards.read(uuid, signal);
    if (card.mode.current !== "enabled")
      throw new AppError("gpu_unavailable", {
        detail: `MIG mode is ${card.mode.current}, after a reset ${card.mode.pending}: reboot the host.`,
      });
    deps.log.info({ gpuUuid: uuid }, "the card is in MIG mode");
  }
  return card.profiles.map(migOfferOf);
}

/**
 * A tenant gets an instance that nobody had before: what lies there without a hold of the owner is a leftover of a slice that is
 * gone (the ledger gave the place to nobody else) and is destroyed first, which the driver refuses while a program uses it.
 */
async function carve(deps: MigPoolDeps, slot: MigSlotOf, owner: string, signal: AbortSignal): Promise<MigSlot> {
  const { slotId, gpuUuid, place } = slot;
  const bootId = await deps.bootId();
  const held = await deps.holds.read(slotId);
  if (held !== null && held.owner !== owner) throw slotHeldBy(slotId, held.owner);
  const isOurs = held !== null && held.bootId === bootId;
  if (!isOurs || held.instance === null) {
    await destroyLeftover(deps, slot, signal);
    await deps.holds.write({ slotId, owner, bootId, isBound: false, instance: null });
  }
  const made = await deps.cards.create(gpuUuid, place, signal);
  const { gpuInstanceId, computeInstanceId, migUuid } = made;
  const isBound = isOurs && held.isBound;
  await deps.holds.write({ slotId, owner, bootId, isBound, instance: { gpuInstanceId, computeInstanceId, migUuid } });
  return made;
}

async function destroyLeftover({ cards, log }: MigPoolDeps, slot: MigSlotOf, signal: AbortSignal): Promise<void> {
  const key = { ...slot.place, gpuInstanceId: null };
  if ((await cards.destroy(slot.gpuUuid, key, signal)) === "destroyed")
    log.warn({ slotId: slot.slotId }, "a MIG instance that no slice had was destroyed");
}

async function destroy(deps: MigPoolDeps, slot: MigSlotOf, owner: string, signal: AbortSignal): Promise<void> {
  const held = await deps.holds.read(slot.slotId);
  if (held === null || held.owner !== owner) return;
  // A boot took the instance away. Without an answer of the driver it is whatever lies at the place.
  if (held.bootId === (await deps.bootId())) {
    const gpuInstanceId = held.instance?.gpuInstanceId ?? null;
    await deps.cards.destroy(slot.gpuUuid, { ...slot.place, gpuInstanceId }, signal);
  }
  await deps.holds.write({ ...held, instance: null });
}
