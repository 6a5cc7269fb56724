import type { MigProfileOffer } from "../node-protocol.ts";

/**
 * The arithmetic of one card's memory grid, on bit masks: a unit is a bit, an instance a run of bits. Profiles are known by
 * their rank, from large to small, and a count for each profile is an array by rank. Pure, and remembered a card table.
 */
export interface MigGrid {
  readonly ranked: readonly RankedProfile[];
  readonly rankOf: ReadonlyMap<number, number>;
  /** Every unit that some profile can take. */
  readonly units: number;
  /** What all instances together may have of each engine. */
  readonly engines: readonly number[];
  /** For each mask of taken units: how many of each profile fit in the rest, by rank. */
  readonly roomOf: (taken: number) => Uint8Array;
}

export interface RankedProfile {
  readonly profile: MigProfileOffer;
  readonly places: readonly { readonly start: number; readonly mask: number }[];
  readonly engines: readonly number[];
}

/** Real grids have 4, 8 or 12 units; up to here a search can look at every mask that there is. */
export const MIG_UNITS_MAX = 16;
const ENGINES = [
  "decoders",
  "encoders",
  "jpegs",
  "opticalFlows",
] as const satisfies readonly (keyof MigProfileOffer["engines"])[];

const grids = new WeakMap<readonly MigProfileOffer[], MigGrid>();

/** Why the table cannot be planned with, in words; null for one that can. Whoever takes a table from a host asks first. */
export function migTableFault(profiles: readonly MigProfileOffer[]): string | null {
  const ids = profiles.map(({ id }) => id);
  const twice = ids.find((id, index) => ids.indexOf(id) !== index);
  if (twice !== undefined) return `the profile ${twice} is in it twice`;
  const beyond = profiles.find(({ starts, size }) => starts.some((start) => start + size > MIG_UNITS_MAX));
  return beyond === undefined
    ? null
    : `${beyond.name} reaches beyond the ${MIG_UNITS_MAX} units of a grid that can be planned`;
}

/** How many units the card's grid has. */
export function migUnitsOf(profiles: readonly MigProfileOffer[]): number {
  return Math.max(0, ...profiles.flatMap(({ starts, size }) => starts.map((start) => start + size)));
}

/** The same table object gives the same grid, with what it has computed so far. Throws for a table with a fault. */
export function gridOf(profiles: readonly MigProfileOffer[]): MigGrid {
  const known = grids.get(profiles);
  if (known !== undefined) return known;
  const fault = migTableFault(profiles);
  if (fault !== null) throw new Error(`a MIG table that nobody looked at: ${fault}`);
  const ranked = profiles.toSorted(byLargest).map((profile) => ({
    profile,
    places: [...new Set(profile.starts)]
      .toSorted((a, b) => a - b)
      .map((start) => ({ start, mask: maskOf(start, profile.size) })),
    engines: ENGINES.map((engine) => profile.engines[engine]),
  }));
  const grid: MigGrid = {
    ranked,
    rankOf: new Map(ranked.map(({ profile }, rank) => [profile.id, rank])),
    units: ranked.flatMap(({ places }) => places).reduce((units, { mask }) => units | mask, 0),
    // The whole card is a profile too; where it is not, no part can have more than the best of them.
    engines: ENGINES.map((_, engine) => Math.max(0, ...ranked.map(({ engines }) => engines[engine] ?? 0))),
    roomOf: memoized((taken) => Uint8Array.from(ranked, ({ places }) => roomIn(taken, places))),
  };
  grids.set(profiles, grid);
  return grid;
}

/** What lies beyond the grid takes nothing of it. */
export function maskOf(start: number, size: number): number {
  return (2 ** Math.min(start + size, MIG_UNITS_MAX) - 1) & ~(2 ** Math.min(start, MIG_UNITS_MAX) - 1);
}

/** How many of each profile may come on top of `counts`, whatever their place: what its total and the engines allow. */
export function allowanceOf(grid: MigGrid, counts: readonly number[]): number[] {
  const used = enginesOf(grid, counts);
  return grid.ranked.map(({ profile, engines }, rank) => {
    const byEngine = engines.map((each, engine) =>
      each === 0 ? Infinity : Math.floor(((grid.engines[engine] ?? 0) - (used[engine] ?? 0)) / each),
    );
    return Math.max(0, Math.min(profile.instancesTotal - (counts[rank] ?? 0), ...byEngine));
  });
}

/** Whether so many of each profile may exist together, whatever their places. */
export function isAllowed(grid: MigGrid, counts: readonly number[]): boolean {
  const withinTotals = grid.ranked.every(({ profile }, rank) => (counts[rank] ?? 0) <= profile.instancesTotal);
  return withinTotals && enginesOf(grid, counts).every((used, engine) => used <= (grid.engines[engine] ?? 0));
}

/** A way to place what is wanted: its starts in the order of the wishes, and the units that are then taken. */
export interface Layout {
  readonly taken: number;
  readonly starts: readonly number[];
}

/**
 * Every set of units that can be taken when one instance of each wanted rank is added, with the lowest starts that lead
 * there. Ways that take the same units are the same way from then on, so the work is bounded by the masks of the grid.
 */
export function layoutsOf(grid: MigGrid, taken: number, ranks: readonly number[]): Layout[] {
  const units = ranks.reduce((sum, rank) => sum + (grid.ranked[rank]?.profile.size ?? 0), 0);
  if (units > freeUnitsOf(grid, taken)) return [];
  // Walked in the order of insertion, which is the order of the starts: the first way to a mask is the lowest.
  let layouts = new Map<number, Layout>([[taken, { taken, starts: [] }]]);
  for (const rank of ranks) {
    const next = new Map<number, Layout>();
    for (const layout of layouts.values()) {
      for (const { start, mask } of grid.ranked[rank]?.places ?? []) {
        const after = layout.taken | mask;
        if ((layout.taken & mask) !== 0 || next.has(after)) continue;
        next.set(after, { taken: after, starts: [...layout.starts, start] });
      }
    }
    layouts = next;
  }
  return [...layouts.values()];
}

function enginesOf(grid: MigGrid, counts: readonly number[]): number[] {
  return ENGINES.map((_, engine) =>
    grid.ranked.reduce((sum, { engines }, rank) => sum + (engines[engine] ?? 0) * (counts[rank] ?? 0), 0),
  );
}

/** How many units are not taken that some profile can take. */
export function freeUnitsOf(grid: MigGrid, taken: number): number {
  let count = 0;
  for (let rest = grid.units & ~taken; rest !== 0; rest &= rest - 1) count += 1;
  return count;
}

/** All places of a profile are equally long, so taking each free one from the left packs the most. */
function roomIn(taken: number, places: RankedProfile["places"]): number {
  let count = 0;
  let now = taken;
  for (const { mask } of places) {
    if ((now & mask) !== 0) continue;
    now |= mask;
    count += 1;
  }
  return count;
}

function byLargest(a: MigProfileOffer, b: MigProfileOffer): number {
  return b.size - a.size || b.memoryGib - a.memoryGib || b.multiprocessors - a.multiprocessors || a.id - b.id;
}

function memoized(compute: (taken: number) => Uint8Array): (taken: number) => Uint8Array {
  const known = new Map<number, Uint8Array>();
  return (taken) => {
    const before = known.get(taken);
    if (before !== undefined) return before;
    const computed = compute(taken);
    known.set(taken, computed);
    return computed;
  };
}
