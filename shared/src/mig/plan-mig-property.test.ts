import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { migCapacityOf, planMig, type MigTable, type MigTaken } from "./plan-mig.ts";
import { everyFinal, faultsOf, isWithinRules, scoreOf, type MigRequest } from "./test-oracle.ts";
import { anyTable, anyTaken, EIGHT, TWELVE } from "./test-tables.ts";

const CARDS = [
  { name: "made up, 8 units", table: EIGHT },
  { name: "made up, 12 units", table: TWELVE },
];

function anyRequest(table: MigTable): fc.Arbitrary<MigRequest> {
  return fc.record({
    wanted: fc.array(fc.constantFrom(...table.profiles.map(({ id }) => id)), { maxLength: 4 }),
    taken: anyTaken(table),
  });
}

const anySituation = anyTable.chain((table) => anyRequest(table).map((request) => ({ table, request })));

describe.each(CARDS)("on the card $name", ({ table }) => {
  test("the plan is right, found whenever one exists, and leaves the most room for what is large", () => {
    fc.assert(
      fc.property(anyRequest(table), (request) => {
        expect(faultsOf(table, request, planMig(table, request))).toEqual([]);
      }),
      { numRuns: 150 },
    );
  });

  test("every layout that the empty card can have is found, and none that it cannot", () => {
    const possible = everyMultiset(table);
    for (const key of possible) {
      const wanted = key === "" ? [] : key.split(",").map(Number);
      expect(planMig(table, { wanted, taken: [] }), key).not.toBeNull();
      for (const { id } of table.profiles) {
        const more = [...wanted, id].toSorted((a, b) => a - b);
        if (!possible.has(more.join(","))) expect(planMig(table, { wanted: more, taken: [] }), key).toBeNull();
      }
    }
  });

  test("the largest profile is never stranded where some placement leaves it possible", () => {
    fc.assert(
      fc.property(anyRequest(table), (request) => {
        const plan = planMig(table, request);
        if (plan === null) return;
        const scores = everyFinal(table, request).map((final) => scoreOf(table, final));
        const left = scoreOf(table, [...request.taken, ...plan.places]);
        const largest = left.findIndex((_, rank) => scores.some((score) => (score[rank] ?? 0) > 0));
        if (largest !== -1) expect(left[largest]).toBeGreaterThan(0);
      }),
      { numRuns: 100 },
    );
  });
});

test("on tables that nobody has seen the plan is right, found whenever one exists, and leaves the most room", () => {
  fc.assert(
    fc.property(anySituation, ({ table, request }) => {
      expect(faultsOf(table, request, planMig(table, request))).toEqual([]);
    }),
    { numRuns: 600 },
  );
});

test("the order of the wishes, of the table and of what is taken changes nothing", () => {
  fc.assert(
    fc.property(anySituation, ({ table, request }) => {
      const turned = { wanted: request.wanted.toReversed(), taken: request.taken.toReversed() };
      expect(planMig({ profiles: table.profiles.toReversed() }, turned)).toEqual(planMig(table, request));
    }),
    { numRuns: 300 },
  );
});

test("the capacity of a profile is exactly how many of it a plan can have", () => {
  fc.assert(
    fc.property(anySituation, ({ table, request: { taken } }) => {
      for (const { profile, free } of migCapacityOf(table, taken)) {
        const ask = (count: number) =>
          planMig(table, { taken, wanted: Array.from({ length: count }, () => profile.id) });
        expect(ask(free)).not.toBeNull();
        expect(ask(free + 1)).toBeNull();
      }
    }),
    { numRuns: 300 },
  );
});

/** Each multiset of profiles that some layout of the empty card has, found by laying it out from left to right. */
function everyMultiset(table: MigTable): Set<string> {
  const found = new Set<string>();
  const seen = new Set<string>();
  const units = Math.max(...table.profiles.flatMap(({ starts, size }) => starts.map((start) => start + size)));
  const walk = (unit: number, laid: readonly MigTaken[]): void => {
    const key = laid
      .map(({ profileId }) => profileId)
      .toSorted((a, b) => a - b)
      .join(",");
    if (seen.has(`${unit} ${key}`) || !isWithinRules(table, laid)) return;
    seen.add(`${unit} ${key}`);
    found.add(key);
    if (unit >= units) return;
    walk(unit + 1, laid);
    for (const { id, starts, size } of table.profiles)
      if (starts.includes(unit)) walk(unit + size, [...laid, { profileId: id, start: unit, size }]);
  };
  walk(0, []);
  return found;
}
