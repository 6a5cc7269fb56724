import { allowanceOf, freeUnitsOf, gridOf, isAllowed, layoutsOf, maskOf, type MigGrid } from "./mig-grid.ts";
import type { MigProfile } from "./mig-profile.ts";

/**
 * Where on a card MIG instances go. Pure. All that it knows of a card is the card's own table.
 *
 * A layout is right when each instance is at a start that its profile has, no two overlap, no profile exists more often
 * than its total, and all together ask for no more media engines than the profile that has most of them (where a card has
 * `+me.all`, that is what forbids a plain instance beside it). While nothing is removed, the driver's own count of what is
 * free bounds what is made. What is in use never moves. What is idle stays, is adopted for an equal wish, or is removed.
 *
 * Among the right layouts the first of: fewest removals; best score; most adoptions; lowest starts. The score is, for each
 * profile from large to small, how many more of it alone would still fit, compared like words: one more of a larger
 * profile outweighs any number of smaller ones.
 */
export interface MigCardTable {
  readonly profiles: readonly MigProfile[];
}

export interface MigInstance {
  readonly profileId: number;
  readonly start: number;
  readonly size: number;
  /** `idle` only when no slice owns it and no program has it open: it may be given away or, where allowed, destroyed. */
  readonly use: "in_use" | "idle";
}

export interface MigSituation<Instance extends MigInstance = MigInstance> {
  readonly existing: readonly Instance[];
  readonly mayRemoveIdle: boolean;
}

/** A profile id for each wanted instance, in any order. */
export interface MigRequest<Instance extends MigInstance = MigInstance> extends MigSituation<Instance> {
  readonly wanted: readonly number[];
}

export interface MigPlacement<Instance extends MigInstance = MigInstance> {
  readonly profileId: number;
  readonly start: number;
  readonly size: number;
  /** The idle instance that already is what was wished for; null when it must be made. */
  readonly adopts: Instance | null;
}

export type MigFit<Instance extends MigInstance = MigInstance> =
  | {
      readonly kind: "fits";
      /** From large to small, those that are adopted before those that are made. */
      readonly placements: readonly MigPlacement<Instance>[];
      /** Idle instances that must be destroyed before anything is made. */
      readonly removals: readonly Instance[];
    }
  | {
      readonly kind: "does_not_fit";
      readonly reasons: readonly { readonly profileId: number; readonly reason: string }[];
    };

export interface MigCapacity {
  readonly profileId: number;
  readonly name: string;
  /** So many of this one alone can be had now, idle ones that already are it among them. */
  readonly fits: number;
}

interface Plan<Instance extends MigInstance> {
  readonly score: readonly number[];
  readonly adopted: readonly (readonly Instance[])[];
  readonly adoptions: number;
  readonly made: readonly { readonly rank: number; readonly start: number }[];
}

/** Beyond so many idle instances either none or all are removed: trying each choice would take too long. */
const CHOOSABLE_MAX = 16;

/** Finds a layout whenever there is one. The same request has the same answer. */
export function fitProfiles<Instance extends MigInstance>(
  card: MigCardTable,
  request: MigRequest<Instance>,
): MigFit<Instance> {
  const grid = gridOf(card.profiles);
  const wanted = countsOf(grid, request.wanted);
  if (wanted === null) return doesNotFit(card, request);
  // In one order, so that of equally good choices always the same one is first.
  const existing = request.existing.toSorted((a, b) => a.start - b.start);
  const idle = existing.filter(({ use }) => use === "idle");
  const inUse = existing.filter(({ use }) => use === "in_use");
  for (const choices of removalChoices(grid, { wanted, inUse, idle }, request.mayRemoveIdle)) {
    let best: (Plan<Instance> & { readonly removals: readonly Instance[] }) | null = null;
    for (const removals of choices) {
      const kept = existing.filter((instance) => !removals.includes(instance));
      const plan = planBeside(grid, wanted, { kept, isFreeKnown: removals.length === 0 });
      if (plan !== null && (best === null || isBetter(plan, best))) best = { ...plan, removals };
    }
    if (best !== null) return { kind: "fits", placements: placementsOf(grid, best), removals: best.removals };
  }
  return doesNotFit(card, request);
}

/** For each profile, in the order of the card's table, how many can be had if nothing else is asked for. */
export function capacityOf(card: MigCardTable, situation: MigSituation): MigCapacity[] {
  const grid = gridOf(card.profiles);
  const { existing, mayRemoveIdle } = situation;
  const inUse = existing.filter(({ use }) => use === "in_use");
  const now = roomBeside(grid, existing, { isFreeKnown: true });
  const cleared =
    mayRemoveIdle && inUse.length < existing.length ? roomBeside(grid, inUse, { isFreeKnown: false }) : [];
  return card.profiles.map((profile) => {
    const rank = grid.rankOf.get(profile.id) ?? 0;
    return { profileId: profile.id, name: profile.name, fits: Math.max(now[rank] ?? 0, cleared[rank] ?? 0) };
  });
}

/** How many of each profile alone can be had beside what is kept, by rank. */
function roomBeside(
  grid: MigGrid,
  kept: readonly MigInstance[],
  options: { readonly isFreeKnown: boolean },
): readonly number[] {
  const allowance = allowanceOf(grid, existingCounts(grid, kept));
  const room = grid.roomOf(takenBy(kept));
  return grid.ranked.map(({ profile }, rank) => {
    const free = options.isFreeKnown ? profile.instancesFree : Infinity;
    return adoptable(kept, profile).length + Math.min(room[rank] ?? 0, allowance[rank] ?? 0, free);
  });
}

interface Wish<Instance extends MigInstance> {
  readonly wanted: readonly number[];
  readonly inUse: readonly Instance[];
  readonly idle: readonly Instance[];
}

/** What may be removed, by how much of it: every choice of one number is looked at before the next number. */
function* removalChoices<Instance extends MigInstance>(
  grid: MigGrid,
  wish: Wish<Instance>,
  mayRemoveIdle: boolean,
): Generator<Iterable<readonly Instance[]>> {
  const { wanted, inUse, idle } = wish;
  yield [[]];
  if (!mayRemoveIdle || idle.length === 0) return;
  // Where it does not fit with everything gone, no choice of less helps.
  if (planBeside(grid, wanted, { kept: inUse, isFreeKnown: false }) === null) return;
  if (idle.length <= CHOOSABLE_MAX)
    for (let count = fewestRemovals(grid, wish); count < idle.length; count += 1) yield choose(idle, count);
  yield [idle];
}

/** So many at least: with less gone there are not even enough units, wherever they lie and whatever is adopted. */
function fewestRemovals(grid: MigGrid, { wanted, inUse, idle }: Wish<MigInstance>): number {
  let missing = -freeUnitsOf(grid, takenBy([...inUse, ...idle]));
  for (const [rank, { profile }] of grid.ranked.entries())
    missing += Math.max(0, (wanted[rank] ?? 0) - adoptable(idle, profile).length) * profile.placements.size;
  let count = 0;
  for (const { size } of idle.toSorted((a, b) => b.size - a.size)) {
    count += 1;
    missing -= size;
    if (missing <= 0) break;
  }
  return count;
}

/** The best plan when exactly `kept` stays; null when there is none. */
function planBeside<Instance extends MigInstance>(
  grid: MigGrid,
  wanted: readonly number[],
  state: { readonly kept: readonly Instance[]; readonly isFreeKnown: boolean },
): Plan<Instance> | null {
  // Adopting beats making the same anew: it leaves the same instances and more room. So as many as can be are adopted.
  const adopted = grid.ranked.map(({ profile }, rank) => adoptable(state.kept, profile).slice(0, wanted[rank] ?? 0));
  const made = grid.ranked.flatMap((_, rank) =>
    Array.from({ length: (wanted[rank] ?? 0) - (adopted[rank]?.length ?? 0) }, () => rank),
  );
  const counts = existingCounts(grid, state.kept);
  for (const rank of made) counts[rank] = (counts[rank] ?? 0) + 1;
  // What exists is the card's own business; only what is made must keep the rules.
  if (made.length > 0 && !isAllowed(grid, counts)) return null;
  if (state.isFreeKnown && made.some((rank) => countIn(made, rank) > (grid.ranked[rank]?.profile.instancesFree ?? 0)))
    return null;
  const allowance = allowanceOf(grid, counts);
  let best: { readonly score: readonly number[]; readonly starts: readonly number[] } | null = null;
  for (const { taken, starts } of layoutsOf(grid, takenBy(state.kept), made)) {
    const room = grid.roomOf(taken);
    const score = allowance.map((allowed, rank) => Math.min(allowed, room[rank] ?? 0));
    if (best === null || compare(score, best.score) > 0) best = { score, starts };
  }
  if (best === null) return null;
  const { score, starts } = best;
  return {
    score,
    adopted,
    adoptions: adopted.reduce((sum, instances) => sum + instances.length, 0),
    made: made.map((rank, index) => ({ rank, start: starts[index] ?? 0 })),
  };
}

function isBetter(plan: Plan<MigInstance>, than: Plan<MigInstance>): boolean {
  const byScore = compare(plan.score, than.score) || plan.adoptions - than.adoptions;
  return byScore > 0 || (byScore === 0 && compare(startsOf(plan), startsOf(than)) < 0);
}

function startsOf(plan: Plan<MigInstance>): number[] {
  return [...plan.adopted.flat().map(({ start }) => start), ...plan.made.map(({ start }) => start)];
}

function placementsOf<Instance extends MigInstance>(grid: MigGrid, plan: Plan<Instance>): MigPlacement<Instance>[] {
  return grid.ranked.flatMap(({ profile }, rank) => {
    const common = { profileId: profile.id, size: profile.placements.size };
    const made = plan.made.filter((each) => each.rank === rank);
    return [
      ...(plan.adopted[rank] ?? []).map((instance) => ({ ...common, start: instance.start, adopts: instance })),
      ...made.map(({ start }) => ({ ...common, start, adopts: null })),
    ];
  });
}

/** Idle instances that are what a wish for the profile asks for, the lowest first. */
function adoptable<Instance extends MigInstance>(kept: readonly Instance[], profile: MigProfile): Instance[] {
  return kept
    .filter(
      ({ use, profileId, size }) => use === "idle" && profileId === profile.id && size === profile.placements.size,
    )
    .toSorted((a, b) => a.start - b.start);
}

/** How many of each rank are wanted; null when the card does not have one of the profiles. */
function countsOf(grid: MigGrid, wanted: readonly number[]): number[] | null {
  const counts = grid.ranked.map(() => 0);
  for (const profileId of wanted) {
    const rank = grid.rankOf.get(profileId);
    if (rank === undefined) return null;
    counts[rank] = (counts[rank] ?? 0) + 1;
  }
  return counts;
}

/** An instance of a profile that the table does not have takes its units and counts for nothing else. */
function existingCounts(grid: MigGrid, existing: readonly MigInstance[]): number[] {
  const known = existing.filter(({ profileId }) => grid.rankOf.has(profileId));
  return (
    countsOf(
      grid,
      known.map(({ profileId }) => profileId),
    ) ?? []
  );
}

function takenBy(existing: readonly MigInstance[]): number {
  return existing.reduce((taken, { start, size }) => taken | maskOf(start, size), 0);
}

function countIn(ranks: readonly number[], rank: number): number {
  return ranks.filter((each) => each === rank).length;
}

function compare(a: readonly number[], b: readonly number[]): number {
  const differs = a.findIndex((value, index) => value !== b[index]);
  return differs === -1 ? 0 : (a[differs] ?? 0) - (b[differs] ?? 0);
}

/** Every choice of `count` of the items, in their order. */
function* choose<Item>(items: readonly Item[], count: number): Generator<readonly Item[]> {
  if (count === 0) yield [];
  else
    for (const [index, item] of items.entries())
      for (const rest of choose(items.slice(index + 1), count - 1)) yield [item, ...rest];
}

function doesNotFit<Instance extends MigInstance>(card: MigCardTable, request: MigRequest<Instance>): MigFit<Instance> {
  const now = capacityOf(card, request);
  const cleared = capacityOf(card, { ...request, mayRemoveIdle: true });
  const reasons = [...new Set(request.wanted)].map((profileId) => {
    const count = request.wanted.filter((each) => each === profileId).length;
    const profile = card.profiles.find(({ id }) => id === profileId);
    const fits = now.find((each) => each.profileId === profileId)?.fits ?? 0;
    const fitsCleared = cleared.find((each) => each.profileId === profileId)?.fits ?? 0;
    return { profileId, reason: reasonFor(card, { profileId, profile, count, fits, fitsCleared }) };
  });
  return { kind: "does_not_fit", reasons };
}

function reasonFor(
  card: MigCardTable,
  found: {
    readonly profileId: number;
    readonly profile: MigProfile | undefined;
    readonly count: number;
    readonly fits: number;
    readonly fitsCleared: number;
  },
): string {
  const { profile, count, fits, fitsCleared } = found;
  if (profile === undefined) {
    const names = card.profiles.map(({ name, id }) => `${name} (${id})`).join(", ");
    return `The card has no profile ${found.profileId}. It has: ${names}.`;
  }
  if (count > profile.instancesTotal)
    return `${count} of ${profile.name} are wanted, and the card makes at most ${profile.instancesTotal}. Ask for less on one card.`;
  if (count <= fits)
    return `${profile.name} fits by itself, not together with the rest that is wanted. Use another card.`;
  const help = count <= fitsCleared ? "Removing the idle instances would make room." : "Use another card.";
  return `${count} of ${profile.name} are wanted, and ${fits} fit beside what exists. ${help}`;
}
