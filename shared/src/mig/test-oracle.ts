import type { MigProfileOffer } from "../node-protocol.ts";
import type { MigPlan, MigTable, MigTaken } from "./plan-mig.ts";

/**
 * The planner's rules written a second time, slowly and with sets of units instead of masks, and a search that tries
 * everything. What the planner answers is compared with it.
 */
export interface MigRequest {
  readonly taken: readonly MigTaken[];
  readonly wanted: readonly number[];
}

const ENGINES = ["decoders", "encoders", "jpegs", "opticalFlows"] as const;

/** What is wrong with the planner's answer, against every answer there is; nothing when it keeps every rule and none is better. */
export function faultsOf(table: MigTable, request: MigRequest, plan: MigPlan | null): string[] {
  const finals = everyFinal(table, request);
  if (plan === null) return finals.length === 0 ? [] : ["does not find what there is"];
  const { places, score } = plan;
  const final = [...request.taken, ...places];
  const sorted = (ids: readonly number[]): string => String(ids.toSorted((a, b) => a - b));
  const best = finals
    .map((each) => scoreOf(table, each))
    .toSorted(compare)
    .at(-1);
  const checks: readonly (readonly [string, boolean])[] = [
    ["gives what was not asked for", sorted(places.map(({ profileId }) => profileId)) === sorted(request.wanted)],
    ["places where the card does not", places.every((each) => startsOf(table, each.profileId).includes(each.start))],
    ["overlaps", isDisjoint(final)],
    ["makes more than the card allows", places.length === 0 || isWithinRules(table, final)],
    ["says another score than it has", String(score) === String(scoreOf(table, final))],
    ["leaves less room than it could", String(score) === String(best)],
  ];
  return checks.filter(([, isRight]) => !isRight).map(([fault]) => fault);
}

/** How many more of each profile alone fit beside the places, from the largest profile to the smallest. */
export function scoreOf(table: MigTable, taken: readonly MigTaken[]): number[] {
  return table.profiles.toSorted(byLargest).map((profile) => mostOf(table, profile, taken));
}

export function isWithinRules(table: MigTable, taken: readonly MigTaken[]): boolean {
  const profiles = taken.map(({ profileId }) => table.profiles.find(({ id }) => id === profileId));
  const withinTotals = table.profiles.every(
    (profile) => profiles.filter((each) => each === profile).length <= profile.instancesTotal,
  );
  return (
    withinTotals &&
    ENGINES.every((engine) => {
      const most = Math.max(...table.profiles.map(({ engines }) => engines[engine]));
      return profiles.reduce((sum, profile) => sum + (profile?.engines[engine] ?? 0), 0) <= most;
    })
  );
}

export function isDisjoint(taken: readonly Pick<MigTaken, "start" | "size">[]): boolean {
  const units = taken.flatMap(({ start, size }) => Array.from({ length: size }, (_, offset) => start + offset));
  return new Set(units).size === units.length;
}

/** What lies on the card after each right answer, with repetitions. */
export function everyFinal(table: MigTable, { taken, wanted }: MigRequest): (readonly MigTaken[])[] {
  const walk = (final: readonly MigTaken[], left: readonly number[]): (readonly MigTaken[])[] => {
    const [profileId, ...rest] = left;
    if (profileId === undefined) return wanted.length === 0 || isWithinRules(table, final) ? [final] : [];
    const size = table.profiles.find(({ id }) => id === profileId)?.size ?? 0;
    return startsOf(table, profileId)
      .map((start) => ({ profileId, start, size }))
      .filter((place) => isDisjoint([...final, place]))
      .flatMap((place) => walk([...final, place], rest));
  };
  return walk(taken, wanted);
}

function mostOf(table: MigTable, profile: MigProfileOffer, taken: readonly MigTaken[]): number {
  const { id: profileId, size } = profile;
  const free = profile.starts
    .map((start) => ({ profileId, start, size }))
    .filter((place) => isDisjoint([...taken, place]));
  // Tried from each next place, with and without it: how many by space alone, then by the other rules.
  const bySpace = (places: readonly MigTaken[]): number => {
    const [first, ...rest] = places;
    if (first === undefined) return 0;
    return Math.max(bySpace(rest), 1 + bySpace(rest.filter((place) => isDisjoint([first, place]))));
  };
  let most = bySpace(free);
  const copies = (count: number): MigTaken[] => Array.from({ length: count }, () => ({ profileId, start: 0, size }));
  while (most > 0 && !isWithinRules(table, [...taken, ...copies(most)])) most -= 1;
  return most;
}

function startsOf(table: MigTable, profileId: number): readonly number[] {
  return table.profiles.find(({ id }) => id === profileId)?.starts ?? [];
}

export function compare(a: readonly number[], b: readonly number[]): number {
  const differs = a.findIndex((value, index) => value !== b[index]);
  return differs === -1 ? 0 : (a[differs] ?? 0) - (b[differs] ?? 0);
}

function byLargest(a: MigProfileOffer, b: MigProfileOffer): number {
  return b.size - a.size || b.memoryGib - a.memoryGib || b.multiprocessors - a.multiprocessors || a.id - b.id;
}
