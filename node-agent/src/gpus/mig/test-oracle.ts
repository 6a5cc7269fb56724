import type { MigProfile } from "./mig-profile.ts";
import type { MigCardTable, MigFit, MigInstance, MigRequest } from "./plan-mig.ts";

/**
 * The planner's rules written a second time, slowly and with sets of units instead of masks, and a search that tries
 * everything. What the planner answers is compared with it.
 */
export interface Solution {
  readonly final: readonly MigInstance[];
  readonly removals: number;
}

const ENGINES = ["decoders", "encoders", "jpegs", "opticalFlows"] as const;

/** Every right answer to the request, with repetitions. */
export function everySolution(card: MigCardTable, request: MigRequest): Solution[] {
  const idle = request.existing.filter(({ use }) => use === "idle");
  const choices = request.mayRemoveIdle ? subsetsOf(idle) : [[]];
  return choices.flatMap((removed) => {
    const kept = request.existing.filter((instance) => !removed.includes(instance));
    const finals = everyFinal(card, { wanted: request.wanted, kept, made: [], adopted: [] }, removed.length === 0);
    return finals.map((final) => ({ final, removals: removed.length }));
  });
}

/** What is wrong with an answer that fits; nothing when it keeps every rule. */
export function faultsOf(card: MigCardTable, request: MigRequest, fit: MigFit & { readonly kind: "fits" }): string[] {
  const { placements, removals } = fit;
  const adopted = placements.flatMap(({ adopts }) => (adopts === null ? [] : [adopts]));
  const made = placements.filter(({ adopts }) => adopts === null).map(instanceOf);
  const final = [...request.existing.filter((instance) => !removals.includes(instance)), ...made];
  const sorted = (ids: readonly number[]): string => String(ids.toSorted((a, b) => a - b));
  const wanted = sorted(placements.map(({ profileId }) => profileId));
  const isExact = placements.every(({ adopts, ...at }) => adopts === null || isSame(adopts, at));
  const checks: readonly (readonly [string, boolean])[] = [
    ["gives what was not asked for", wanted === sorted(request.wanted)],
    ["removes without leave", removals.length === 0 || request.mayRemoveIdle],
    ["removes or gives away what is in use", [...removals, ...adopted].every(({ use }) => use === "idle")],
    [
      "gives away what it removes, or twice",
      new Set([...removals, ...adopted]).size === removals.length + adopted.length,
    ],
    ["takes what does not exist", [...removals, ...adopted].every((instance) => request.existing.includes(instance))],
    ["adopts what is not what was asked for", isExact],
    ["places where the card does not", made.every((each) => startsOf(card, each.profileId).includes(each.start))],
    ["overlaps", isDisjoint(final)],
    ["makes more than the card allows", made.length === 0 || isWithinRules(card, final)],
  ];
  return checks.filter(([, isRight]) => !isRight).map(([fault]) => fault);
}

/** How many more of each profile alone fit beside the instances, from the largest profile to the smallest. */
export function scoreOf(card: MigCardTable, instances: readonly MigInstance[]): number[] {
  return card.profiles.toSorted(byLargest).map((profile) => mostOf(card, profile, instances));
}

export function isWithinRules(card: MigCardTable, instances: readonly MigInstance[]): boolean {
  const profiles = instances.map(({ profileId }) => card.profiles.find(({ id }) => id === profileId));
  const withinTotals = card.profiles.every(
    (profile) => profiles.filter((each) => each === profile).length <= profile.instancesTotal,
  );
  return (
    withinTotals &&
    ENGINES.every((engine) => {
      const most = Math.max(...card.profiles.map(({ engines }) => engines[engine]));
      return profiles.reduce((sum, profile) => sum + (profile?.engines[engine] ?? 0), 0) <= most;
    })
  );
}

export function isDisjoint(instances: readonly Pick<MigInstance, "start" | "size">[]): boolean {
  const units = instances.flatMap(unitsOf);
  return new Set(units).size === units.length;
}

interface Attempt {
  readonly wanted: readonly number[];
  readonly kept: readonly MigInstance[];
  readonly made: readonly MigInstance[];
  readonly adopted: readonly MigInstance[];
}

function everyFinal(card: MigCardTable, attempt: Attempt, isFreeKnown: boolean): (readonly MigInstance[])[] {
  const { kept, made, adopted } = attempt;
  const final = [...kept, ...made];
  const [profileId, ...wanted] = attempt.wanted;
  if (profileId === undefined) return made.length === 0 || isWithinRules(card, final) ? [final] : [];
  const profile = card.profiles.find(({ id }) => id === profileId);
  if (profile === undefined) return [];
  const already = made.filter((each) => each.profileId === profileId).length;
  const { size } = profile.placements;
  const adoptions = kept
    .filter(
      (each) => each.use === "idle" && isSame(each, { profileId, size, start: each.start }) && !adopted.includes(each),
    )
    .flatMap((each) => everyFinal(card, { ...attempt, wanted, adopted: [...adopted, each] }, isFreeKnown));
  if (isFreeKnown && already >= profile.instancesFree) return adoptions;
  const places = startsOf(card, profileId).map((start) => instanceOf({ profileId, start, size }));
  const creations = places
    .filter((place) => isDisjoint([...final, place]))
    .flatMap((place) => everyFinal(card, { ...attempt, wanted, made: [...made, place] }, isFreeKnown));
  return [...adoptions, ...creations];
}

function mostOf(card: MigCardTable, profile: MigProfile, instances: readonly MigInstance[]): number {
  const { size } = profile.placements;
  const free = startsOf(card, profile.id)
    .map((start) => instanceOf({ profileId: profile.id, start, size }))
    .filter((place) => isDisjoint([...instances, place]));
  // Tried from each next place, with and without it: how many by space alone, then by the other rules.
  const bySpace = (places: readonly MigInstance[]): number => {
    const [first, ...rest] = places;
    if (first === undefined) return 0;
    return Math.max(bySpace(rest), 1 + bySpace(rest.filter((place) => isDisjoint([first, place]))));
  };
  let most = bySpace(free);
  const copies = (count: number): MigInstance[] =>
    Array.from({ length: count }, () => instanceOf({ profileId: profile.id, start: 0, size }));
  while (most > 0 && !isWithinRules(card, [...instances, ...copies(most)])) most -= 1;
  return most;
}

function subsetsOf<Item>(items: readonly Item[]): Item[][] {
  return items.reduce<Item[][]>((subsets, item) => [...subsets, ...subsets.map((subset) => [...subset, item])], [[]]);
}

function startsOf(card: MigCardTable, profileId: number): readonly number[] {
  return card.profiles.find(({ id }) => id === profileId)?.placements.starts ?? [];
}

function instanceOf(place: Pick<MigInstance, "profileId" | "start" | "size">): MigInstance {
  return { profileId: place.profileId, start: place.start, size: place.size, use: "in_use" };
}

function isSame(a: Omit<MigInstance, "use">, b: Omit<MigInstance, "use">): boolean {
  return a.profileId === b.profileId && a.start === b.start && a.size === b.size;
}

function unitsOf({ start, size }: Pick<MigInstance, "start" | "size">): number[] {
  return Array.from({ length: size }, (_, offset) => start + offset);
}

function byLargest(a: MigProfile, b: MigProfile): number {
  return (
    b.placements.size - a.placements.size ||
    b.memoryGib - a.memoryGib ||
    b.multiprocessors - a.multiprocessors ||
    a.id - b.id
  );
}
