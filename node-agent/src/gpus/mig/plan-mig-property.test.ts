import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { MigProfile } from "./mig-profile.ts";
import { capacityOf, fitProfiles, type MigCardTable, type MigInstance, type MigRequest } from "./plan-mig.ts";
import { everySolution, faultsOf, isDisjoint, isWithinRules, scoreOf } from "./test-oracle.ts";
import { EIGHT, makeProfile, recordedCards, TWELVE } from "./test-tables.ts";

const CARDS = [
  { name: "made up, 8 units", card: EIGHT },
  { name: "made up, 12 units", card: TWELVE },
  ...recordedCards(),
];

/** A table that nobody has seen: any sizes, any starts, any totals, engines that run out. */
const anyCard: fc.Arbitrary<MigCardTable> = fc
  .integer({ min: 2, max: 12 })
  .chain((units) => fc.array(anyProfile(units), { minLength: 1, maxLength: 5 }))
  .map((profiles) => ({ profiles: profiles.map((profile, id) => ({ ...profile, id, name: `${id}g.8gb` })) }));

function anyProfile(units: number): fc.Arbitrary<MigProfile> {
  const count = fc.integer({ min: 0, max: 2 });
  return fc
    .record({
      size: fc.integer({ min: 1, max: units }),
      memoryGib: fc.integer({ min: 1, max: 3 }),
      instancesTotal: fc.integer({ min: 1, max: 5 }),
      instancesFree: fc.integer({ min: 0, max: 5 }),
      engines: fc.record({ decoders: count, encoders: count, jpegs: count, opticalFlows: count }),
    })
    .chain(({ size, ...rest }) =>
      fc
        .uniqueArray(fc.integer({ min: 0, max: units - size }), { minLength: 1, maxLength: 6 })
        .map((starts) => makeProfile({ ...rest, placements: { starts, size } })),
    );
}

/** Something that the card could show: tried one by one, kept where it is right beside the others. */
function anyExisting(card: MigCardTable): fc.Arbitrary<MigInstance[]> {
  const place = fc.constantFrom(...card.profiles).chain(({ id, placements }) =>
    fc.record({
      profileId: fc.constant(id),
      start: fc.constantFrom(...placements.starts),
      size: fc.constant(placements.size),
      use: fc.constantFrom("in_use" as const, "idle" as const),
    }),
  );
  return fc.array(place, { maxLength: 6 }).map((places) =>
    places.reduce<MigInstance[]>((kept, each) => {
      const next = [...kept, each];
      return isDisjoint(next) && isWithinRules(card, next) ? next : kept;
    }, []),
  );
}

function anyRequest(card: MigCardTable): fc.Arbitrary<MigRequest> {
  return fc.record({
    wanted: fc.array(fc.constantFrom(...card.profiles.map(({ id }) => id)), { maxLength: 4 }),
    existing: anyExisting(card),
    mayRemoveIdle: fc.boolean(),
  });
}

const anySituation = anyCard.chain((card) => anyRequest(card).map((request) => ({ card, request })));

function compare(a: readonly number[], b: readonly number[]): number {
  const differs = a.findIndex((value, index) => value !== b[index]);
  return differs === -1 ? 0 : (a[differs] ?? 0) - (b[differs] ?? 0);
}

/** The planner's answer against every answer there is. */
function judge(card: MigCardTable, request: MigRequest): void {
  const fit = fitProfiles(card, request);
  const solutions = everySolution(card, request);
  if (fit.kind === "does_not_fit") {
    expect(solutions).toHaveLength(0);
    expect(fit.reasons.map(({ profileId }) => profileId)).toEqual([...new Set(request.wanted)]);
    return;
  }
  expect(faultsOf(card, request, fit)).toEqual([]);
  const fewest = Math.min(...solutions.map(({ removals }) => removals));
  expect(fit.removals).toHaveLength(fewest);
  const made = fit.placements
    .filter(({ adopts }) => adopts === null)
    .map(({ profileId, start, size }) => ({ profileId, start, size, use: "in_use" as const }));
  const final = [...request.existing.filter((instance) => !fit.removals.includes(instance)), ...made];
  const score = scoreOf(card, final);
  const best = solutions
    .filter(({ removals }) => removals === fewest)
    .map((solution) => scoreOf(card, solution.final))
    .toSorted(compare)
    .at(-1);
  expect(score).toEqual(best);
}

describe.each(CARDS)("on the card $name", ({ card }) => {
  test("the plan is right, found whenever one exists, and leaves the most room for what is large", () => {
    fc.assert(
      fc.property(anyRequest(card), (request) => judge(card, request)),
      { numRuns: 150 },
    );
  });

  test("every layout that the empty card can have is found, and none that it cannot", () => {
    const possible = everyMultiset(card);
    for (const key of possible) {
      const wanted = key === "" ? [] : key.split(",").map(Number);
      expect(fitProfiles(card, { wanted, existing: [], mayRemoveIdle: false }).kind, key).toBe("fits");
      for (const { id } of card.profiles) {
        const more = [...wanted, id].toSorted((a, b) => a - b);
        if (!possible.has(more.join(",")))
          expect(fitProfiles(card, { wanted: more, existing: [], mayRemoveIdle: false }).kind, key).toBe(
            "does_not_fit",
          );
      }
    }
  });

  test("the largest profile is never stranded where some placement leaves it possible", () => {
    fc.assert(
      fc.property(anyRequest(card), (wish) => {
        const request = { ...wish, mayRemoveIdle: false };
        const fit = fitProfiles(card, request);
        if (fit.kind === "does_not_fit") return;
        const scores = everySolution(card, request).map(({ final }) => scoreOf(card, final));
        const made = fit.placements
          .filter(({ adopts }) => adopts === null)
          .map((each) => ({ ...each, use: "in_use" as const }));
        const left = scoreOf(card, [...request.existing, ...made]);
        const largest = left.findIndex((_, rank) => scores.some((score) => (score[rank] ?? 0) > 0));
        if (largest !== -1) expect(left[largest]).toBeGreaterThan(0);
      }),
      { numRuns: 100 },
    );
  });
});

test("on tables that nobody has seen the plan is right, found whenever one exists, and leaves the most room", () => {
  fc.assert(
    fc.property(anySituation, ({ card, request }) => judge(card, request)),
    { numRuns: 600 },
  );
});

test("the order of the wishes, of the table and of what exists changes nothing", () => {
  fc.assert(
    fc.property(anySituation, ({ card, request }) => {
      const { mayRemoveIdle } = request;
      const turned = { wanted: request.wanted.toReversed(), existing: request.existing.toReversed(), mayRemoveIdle };
      const fit = fitProfiles({ profiles: card.profiles.toReversed() }, turned);
      const expected = fitProfiles(card, request);
      if (expected.kind === "fits") expect(fit).toEqual(expected);
      else expect(fit.kind).toBe("does_not_fit");
    }),
    { numRuns: 300 },
  );
});

test("the capacity of a profile is exactly how many of it a plan can have", () => {
  fc.assert(
    fc.property(anySituation, ({ card, request }) => {
      for (const { profileId, fits } of capacityOf(card, request)) {
        const ask = (count: number): string =>
          fitProfiles(card, { ...request, wanted: Array.from({ length: count }, () => profileId) }).kind;
        expect(ask(fits)).toBe("fits");
        expect(ask(fits + 1)).toBe("does_not_fit");
      }
    }),
    { numRuns: 300 },
  );
});

/** Each multiset of profiles that some layout of the empty card has, found by laying it out from left to right. */
function everyMultiset(card: MigCardTable): Set<string> {
  const found = new Set<string>();
  const seen = new Set<string>();
  const units = Math.max(
    ...card.profiles.flatMap(({ placements: { starts, size } }) => starts.map((start) => start + size)),
  );
  const walk = (unit: number, laid: readonly MigInstance[]): void => {
    const key = laid
      .map(({ profileId }) => profileId)
      .toSorted((a, b) => a - b)
      .join(",");
    if (seen.has(`${unit} ${key}`) || !isWithinRules(card, laid)) return;
    seen.add(`${unit} ${key}`);
    found.add(key);
    if (unit >= units) return;
    walk(unit + 1, laid);
    for (const { id, placements } of card.profiles)
      if (placements.starts.includes(unit))
        walk(unit + placements.size, [...laid, { profileId: id, start: unit, size: placements.size, use: "in_use" }]);
  };
  walk(0, []);
  return found;
}
