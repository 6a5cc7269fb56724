import type { MigPlace } from "../gpu-slots.ts";
import type { MigProfileOffer } from "../node-protocol.ts";
import { allowanceOf, gridOf, isAllowed, layoutsOf, maskOf, type MigGrid } from "./mig-grid.ts";

/**
 * Where on a card MIG instances go. Pure. All that it knows of a card is the card's own table.
 *
 * A layout is right when each instance is at a start that its profile has, no two overlap, no profile exists more often
 * than its total, and all together ask for no more media engines than the profile that has most of them (where a card has
 * `+me.all`, that is what forbids a plain instance beside it). What is taken never moves.
 *
 * Among the right layouts the first of: best score; lowest starts. The score is, for each profile from large to small, how
 * many more of it alone would still fit, compared like words: one more of a larger profile outweighs any number of smaller
 * ones.
 */
export interface MigTable {
  readonly profiles: readonly MigProfileOffer[];
}

/** A place that is not free. Its size is its own: the table may have changed since. */
export interface MigTaken extends MigPlace {
  readonly size: number;
}

export interface MigPlan {
  /** From large to small, those of one profile from the left. */
  readonly places: readonly MigTaken[];
  /** How many more of each profile alone would still fit, from large to small. */
  readonly score: readonly number[];
}

export interface MigCapacity {
  readonly profile: MigProfileOffer;
  /** So many of this one alone fit beside what is taken. */
  readonly free: number;
}

/**
 * Finds a layout whenever there is one; null when there is none. `wanted` names a profile id for each instance, in any order.
 * The same request has the same answer. Throws for a table that `migTableFault` would name.
 */
export function planMig(
  table: MigTable,
  request: { readonly taken: readonly MigTaken[]; readonly wanted: readonly number[] },
): MigPlan | null {
  const grid = gridOf(table.profiles);
  const ranks = request.wanted.map((profileId) => grid.rankOf.get(profileId) ?? -1).toSorted((a, b) => a - b);
  if (ranks.includes(-1)) return null;
  const counts = countsOf(grid, request.taken);
  for (const rank of ranks) counts[rank] = (counts[rank] ?? 0) + 1;
  // What is there is the card's own business; only what is made must keep the rules.
  if (ranks.length > 0 && !isAllowed(grid, counts)) return null;
  const allowance = allowanceOf(grid, counts);
  let best: { readonly score: readonly number[]; readonly starts: readonly number[] } | null = null;
  for (const { taken, starts } of layoutsOf(grid, maskOfAll(request.taken), ranks)) {
    const room = grid.roomOf(taken);
    const score = allowance.map((allowed, rank) => Math.min(allowed, room[rank] ?? 0));
    if (best === null || compareScores(score, best.score) > 0) best = { score, starts };
  }
  if (best === null) return null;
  const { score, starts } = best;
  return { score, places: placesOf(grid, ranks, starts) };
}

/** For each profile, from large to small, how many can be had if nothing else is asked for. */
export function migCapacityOf(table: MigTable, taken: readonly MigTaken[]): MigCapacity[] {
  const grid = gridOf(table.profiles);
  const allowance = allowanceOf(grid, countsOf(grid, taken));
  const room = grid.roomOf(maskOfAll(taken));
  return grid.ranked.map(({ profile }, rank) => ({
    profile,
    free: Math.min(room[rank] ?? 0, allowance[rank] ?? 0),
  }));
}

/** Above zero when the first leaves more of the largest profile on which they differ. */
export function compareScores(a: readonly number[], b: readonly number[]): number {
  const differs = a.findIndex((value, index) => value !== b[index]);
  return differs === -1 ? 0 : (a[differs] ?? 0) - (b[differs] ?? 0);
}

/** A place of a profile that the table does not have takes its units and counts for nothing else. */
function countsOf(grid: MigGrid, taken: readonly MigTaken[]): number[] {
  const counts = grid.ranked.map(() => 0);
  for (const { profileId } of taken) {
    const rank = grid.rankOf.get(profileId);
    if (rank !== undefined) counts[rank] = (counts[rank] ?? 0) + 1;
  }
  return counts;
}

function maskOfAll(taken: readonly MigTaken[]): number {
  return taken.reduce((mask, { start, size }) => mask | maskOf(start, size), 0);
}

function placesOf(grid: MigGrid, ranks: readonly number[], starts: readonly number[]): MigTaken[] {
  const places = ranks.flatMap((rank, index) => {
    const profile = grid.ranked[rank]?.profile;
    return profile === undefined
      ? []
      : [{ rank, profileId: profile.id, start: starts[index] ?? 0, size: profile.size }];
  });
  return places
    .toSorted((a, b) => a.rank - b.rank || a.start - b.start)
    .map(({ profileId, start, size }) => ({ profileId, start, size }));
}
