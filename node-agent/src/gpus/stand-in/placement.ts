import type { Engines, GpuInstanceProfile, MigLayout } from "./cards.ts";
import type { GpuInstance } from "./state.ts";

/** The rules of one MIG grid: which placements are free, which is taken first, what number an instance gets. Pure. */

const NO_ENGINES: Engines = { decoders: 0, encoders: 0, copiers: 0, jpegs: 0, flows: 0 };
/** Copy engines are shared out by the driver and refuse nothing. */
const SCARCE = ["decoders", "encoders", "jpegs", "flows"] as const;

interface Placed {
  readonly profile: GpuInstanceProfile;
  readonly start: number;
}

export function placedOf(layout: MigLayout, instances: readonly GpuInstance[]): Placed[] {
  return instances.map(({ profileId, start }) => ({ profile: profileById(layout, profileId), start }));
}

export function profileById(layout: MigLayout, id: number): GpuInstanceProfile {
  const profile = layout.profiles.find((candidate) => candidate.id === id);
  if (profile === undefined) throw new Error(`The state names the MIG profile ${id}, which this card does not have.`);
  return profile;
}

/** Where a new instance goes: the wanted start, or the first free one in the driver's order. Null when there is no room. */
export function freeStart(
  layout: MigLayout,
  placed: readonly Placed[],
  wish: { readonly profile: GpuInstanceProfile; readonly start: number | null },
): number | null {
  const { profile, start } = wish;
  if (placed.filter((other) => other.profile.id === profile.id).length >= profile.instancesMax) return null;
  if (!hasEngines(layout, placed, profile)) return null;
  const order = layout.startOrders[profile.size] ?? profile.starts;
  const wanted = start === null ? order.filter((candidate) => profile.starts.includes(candidate)) : [start];
  return (
    wanted.find((candidate) => profile.starts.includes(candidate) && isFree(placed, candidate, profile.size)) ?? null
  );
}

/** How many more instances of the profile there is room for. */
export function freeCount(layout: MigLayout, instances: readonly GpuInstance[], profile: GpuInstanceProfile): number {
  const placed = placedOf(layout, instances);
  for (let count = 0; ; count += 1) {
    const start = freeStart(layout, placed, { profile, start: null });
    if (start === null) return count;
    placed.push({ profile, start });
  }
}

/** Instances are numbered along the tree of halves: the whole grid is 0, its halves 1 and 2, and so on. */
export function instanceIdOf(layout: MigLayout, profile: GpuInstanceProfile, start: number): number {
  const parts = layout.grid / profile.size;
  const from = layout.mirrorsHalves && parts > 1 ? (start + layout.grid / 2) % layout.grid : start;
  return parts - 1 + from / profile.size;
}

function isFree(placed: readonly Placed[], start: number, size: number): boolean {
  return placed.every((other) => start + size <= other.start || other.start + other.profile.size <= start);
}

function hasEngines(layout: MigLayout, placed: readonly Placed[], profile: GpuInstanceProfile): boolean {
  return SCARCE.every((engine) => {
    const all = Math.max(...layout.profiles.map((candidate) => candidate.engines[engine]));
    const used = placed.reduce((sum, other) => sum + other.profile.engines[engine], NO_ENGINES[engine]);
    return used + profile.engines[engine] <= all;
  });
}

/** A share of the compute slices of a GPU instance. */
export interface ComputeProfile {
  readonly id: number;
  readonly name: string;
  readonly slices: number;
  readonly sms: number;
  readonly size: number;
  readonly isWhole: boolean;
}

const COMPUTE_IDS: Readonly<Record<number, number>> = { 1: 0, 2: 1, 3: 2, 4: 3, 7: 4 };
const COMPUTE_SHARES: Readonly<Record<number, readonly number[]>> = { 4: [1, 2, 4], 7: [1, 2, 3, 4, 7] };

export function computeProfilesOf(layout: MigLayout, profile: GpuInstanceProfile): ComputeProfile[] {
  const shares =
    COMPUTE_SHARES[profile.slices] ?? Array.from({ length: profile.slices }, (_unused, index) => index + 1);
  return shares.map((slices) => {
    const isWhole = slices === profile.slices;
    // One slice with twice the memory is a revision of its own, and its placement is as wide as its memory.
    const isWide = layout.grid === 8 && slices === 1 && profile.size === 2;
    return {
      id: isWide && isWhole ? 7 : (COMPUTE_IDS[slices] ?? 0),
      name: isWhole ? profile.name : `${slices}c.${profile.name}`,
      slices,
      sms: isWhole ? profile.sms : slices * (layout.profiles[0]?.sms ?? 0),
      size: isWide && isWhole ? 2 : slices,
      isWhole,
    };
  });
}

/** The first free slices of a GPU instance for a share of it; null when there are none. */
export function freeSlices(layout: MigLayout, instance: GpuInstance, wish: ComputeProfile): number | null {
  const profile = profileById(layout, instance.profileId);
  const all = computeProfilesOf(layout, profile);
  const used = instance.computeInstances.map(({ profileId, start }) => ({
    start,
    slices: all.find((candidate) => candidate.id === profileId)?.slices ?? profile.slices,
  }));
  for (let start = 0; start + wish.slices <= profile.slices; start += wish.slices) {
    if (used.every((other) => start + wish.slices <= other.start || other.start + other.slices <= start)) return start;
  }
  return null;
}
