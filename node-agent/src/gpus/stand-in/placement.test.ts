import { expect, test } from "vitest";
import { CARDS, isCardName, type MigLayout } from "./cards.ts";
import { freeCount, freeStart, instanceIdOf, placedOf } from "./placement.ts";
import type { GpuInstance } from "./state.ts";

const LAYOUTS = Object.keys(CARDS)
  .filter(isCardName)
  .flatMap((card) => {
    const { mig } = CARDS[card];
    return mig === null ? [] : ([[card, mig]] as const);
  });

/** Every set of instances that can be reached by making them one after the other at any place. */
function layoutsOf(mig: MigLayout): Map<string, GpuInstance[]> {
  const seen = new Map<string, GpuInstance[]>([["", []]]);
  for (const [, instances] of seen) {
    const placed = placedOf(mig, instances);
    for (const profile of mig.profiles)
      for (const wanted of profile.starts) {
        const start = freeStart(mig, placed, { profile, start: wanted });
        if (start === null) continue;
        const id = instanceIdOf(mig, profile, start);
        const next = [...instances, { id, profileId: profile.id, start, computeInstances: [] }].toSorted(
          (one, other) => one.start - other.start,
        );
        seen.set(next.map(({ profileId, start: at }) => `${profileId}@${at}`).join(" "), next);
      }
  }
  return seen;
}

test.each(LAYOUTS)(
  "%s: in no order of making do instances overlap, share a number or exceed the card",
  (_card, mig) => {
    const layouts = layoutsOf(mig);
    expect(layouts.size).toBeGreaterThan(15);
    const largest = mig.profiles.find(({ size }) => size === mig.grid);
    for (const [name, instances] of layouts) {
      const placed = placedOf(mig, instances);
      const units = placed.flatMap(({ profile, start }) =>
        Array.from({ length: profile.size }, (_unused, at) => start + at),
      );
      expect(new Set(units).size, name).toBe(units.length);
      expect(Math.max(0, ...units), name).toBeLessThan(mig.grid);
      expect(new Set(instances.map(({ id }) => id)).size, name).toBe(instances.length);
      const slices = placed.reduce((sum, { profile }) => sum + profile.slices, 0);
      expect(slices, name).toBeLessThanOrEqual(largest?.slices ?? 0);
      const decoders = placed.reduce((sum, { profile }) => sum + profile.engines.decoders, 0);
      expect(decoders, name).toBeLessThanOrEqual(largest?.engines.decoders ?? 0);
    }
  },
);

test.each(LAYOUTS)(
  "%s: as many instances are free as the card has of each profile, and none when it is whole",
  (_card, mig) => {
    expect(mig.profiles.map((profile) => freeCount(mig, [], profile))).toEqual(
      mig.profiles.map(({ instancesMax }) => instancesMax),
    );
    const [whole] = mig.profiles.filter(({ size }) => size === mig.grid);
    const taken = [{ id: 0, profileId: whole?.id ?? -1, start: 0, computeInstances: [] }];
    expect(mig.profiles.map((profile) => freeCount(mig, taken, profile))).toEqual(mig.profiles.map(() => 0));
  },
);
