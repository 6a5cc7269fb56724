/**
 * What is handed out of a GPU is a slot: all of it, named by the GPU's UUID, or one MIG instance, named by its place on the card:
 * `GPU-…/19:4` is profile 19 at start 4. The place names the slot before the instance exists and after it is gone, and two
 * instances that lie over each other never have the same name.
 */
export interface GpuSlot {
  readonly gpuUuid: string;
  /** Null for the whole GPU. */
  readonly place: MigPlace | null;
}

export interface MigPlace {
  /** Number of the GPU instance profile, as the card's own driver counts them. */
  readonly profileId: number;
  /** First unit of the card's memory grid. */
  readonly start: number;
}

const SLOT = /^(GPU-[0-9A-Za-z-]{1,76})(?:\/(\d{1,4}):(\d{1,3}))?$/;

/** Null for a text that names no slot. */
export function parseSlotId(slotId: string): GpuSlot | null {
  const [, gpuUuid, profileId, start] = SLOT.exec(slotId) ?? [];
  if (gpuUuid === undefined) return null;
  const place = profileId === undefined ? null : { profileId: Number(profileId), start: Number(start) };
  return { gpuUuid, place };
}

export function migSlotId(gpuUuid: string, { profileId, start }: MigPlace): string {
  return `${gpuUuid}/${profileId}:${start}`;
}

/** What requests call a MIG slot: `h100` in parts of `1g.10gb` is `h100-1g.10gb`. `+me` and `-me` are two profiles of one card. */
export function migKindOf(kind: string, profileName: string): string {
  return `${kind}-${profileName.toLowerCase().replaceAll(/[^a-z0-9.-]+/g, ".")}`.slice(0, 64);
}

/** The UUID of the slot's GPU; the text itself where it names no slot. */
export function cardOf(slotId: string): string {
  return parseSlotId(slotId)?.gpuUuid ?? slotId;
}

/** Where the slot's MIG instance lies; null for a whole GPU. */
export function placeOf(slotId: string): MigPlace | null {
  return parseSlotId(slotId)?.place ?? null;
}
