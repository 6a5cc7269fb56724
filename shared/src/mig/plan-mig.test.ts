import { expect, test } from "vitest";
import { maskOf, MIG_UNITS_MAX, migTableFault } from "./mig-grid.ts";
import { migCapacityOf, planMig, type MigTable, type MigTaken } from "./plan-mig.ts";
import { EIGHT, makeProfile, TWELVE } from "./test-tables.ts";

const at = (profileId: number, start: number, size: number): MigTaken => ({ profileId, start, size });

/** `profile@start` of each place. */
function plan(wanted: readonly number[], taken: readonly MigTaken[] = [], table: MigTable = EIGHT): string | null {
  const found = planMig(table, { wanted, taken });
  return found === null ? null : found.places.map(({ profileId, start }) => `${profileId}@${start}`).join(" ");
}

test("a small instance goes where the largest hole stays whole", () => {
  expect(plan([10])).toBe("10@6");
  expect(plan([10], [at(10, 2, 1)])).toBe("10@3");
  expect(plan([10], [at(10, 5, 1)])).toBe("10@4");
  expect(plan([20], [at(10, 5, 1)])).toBe("20@0");
});

test("instances are placed together, so an early one never takes the only start of a later one", () => {
  expect(plan([10, 10, 10, 30])).toBe("30@4 10@0 10@1 10@2");
  expect(plan([30, 30])).toBe("30@0 30@4");
  expect(plan([20, 20, 20, 11])).toBe("20@0 20@2 20@4 11@6");
});

test("nothing moves what is taken", () => {
  expect(plan([70], [at(10, 6, 1)])).toBeNull();
});

test("more than the card makes of a profile, and a profile that it does not have, have no plan", () => {
  expect(plan([11, 11])).toBeNull();
  expect(plan([30, 30, 10])).toBeNull();
  expect(plan([99])).toBeNull();
});

test("engines that instances share are given out once", () => {
  expect(plan([3, 2, 2, 2], [], TWELVE)).toBe("2@0 2@3 2@6 3@9");
  expect(plan([3, 1], [], TWELVE)).toBeNull();
  expect(plan([4, 1, 1], [], TWELVE)).toBe("4@0 1@6 1@9");
});

test("nothing wanted is a plan that does nothing", () => {
  expect(planMig(EIGHT, { wanted: [], taken: [at(30, 0, 4)] })).toEqual({ places: [], score: [0, 1, 1, 3, 1] });
});

test("the capacity says for each profile, from large to small, how many more can be had", () => {
  const free = (taken: readonly MigTaken[]) =>
    migCapacityOf(EIGHT, taken).map(({ profile, free: count }) => [profile.name, count]);
  const ofEmpty = [
    ["7g.64gb", 1],
    ["3g.32gb", 2],
    ["2g.16gb", 3],
    ["1g.8gb", 7],
    ["1g.8gb+me", 1],
  ];
  expect(free([])).toEqual(ofEmpty);
  expect(free([at(10, 0, 1)]).map(([, count]) => count)).toEqual([0, 1, 2, 6, 1]);
  expect(free([at(11, 0, 1), at(10, 1, 1)]).map(([, count]) => count)).toEqual([0, 1, 2, 5, 0]);
});

test("what an older table placed takes its units in a newer one that does not know its profile", () => {
  expect(plan([30], [at(77, 0, 3)])).toBe("30@4");
  expect(plan([70], [at(77, 7, 1)])).toBeNull();
});

test("a table beyond what can be planned, or that contradicts itself, is named and never planned wrongly", () => {
  const beyond = [makeProfile({ starts: [0, MIG_UNITS_MAX], size: 1 })];
  expect(migTableFault(beyond)).toContain("reaches beyond the 16 units");
  expect(() => planMig({ profiles: beyond }, { wanted: [1], taken: [] })).toThrow("reaches beyond");
  expect(migTableFault([makeProfile(), makeProfile({ name: "2g.16gb" })])).toBe("the profile 1 is in it twice");
  expect(migTableFault(EIGHT.profiles)).toBeNull();
  expect(maskOf(MIG_UNITS_MAX - 1, 4)).toBe(2 ** (MIG_UNITS_MAX - 1));
});
