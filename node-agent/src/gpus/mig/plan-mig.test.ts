import { expect, test } from "vitest";
import { capacityOf, fitProfiles, type MigFit, type MigInstance } from "./plan-mig.ts";
import { EIGHT, makeProfile, TWELVE } from "./test-tables.ts";

const inUse = (profileId: number, start: number, size: number): MigInstance => ({
  profileId,
  start,
  size,
  use: "in_use",
});
const idle = (profileId: number, start: number, size: number): MigInstance => ({ profileId, start, size, use: "idle" });

/** `profile@start`, with a star where an idle instance is adopted. */
function shown(fit: MigFit): string {
  if (fit.kind === "does_not_fit") return fit.reasons.map(({ reason }) => reason).join(" ");
  const placed = fit.placements.map(
    ({ profileId, start, adopts }) => `${profileId}@${start}${adopts === null ? "" : "*"}`,
  );
  const removed = fit.removals.map(({ profileId, start }) => `-${profileId}@${start}`);
  return [...removed, ...placed].join(" ");
}

function fit(wanted: readonly number[], existing: readonly MigInstance[] = [], mayRemoveIdle = false): string {
  return shown(fitProfiles(EIGHT, { wanted, existing, mayRemoveIdle }));
}

test("a small instance goes where the largest hole stays whole", () => {
  expect(fit([10])).toBe("10@6");
  expect(fit([10], [inUse(10, 2, 1)])).toBe("10@3");
  expect(fit([10], [inUse(10, 5, 1)])).toBe("10@4");
  expect(fit([20], [inUse(10, 5, 1)])).toBe("20@0");
});

test("instances are placed together, so an early one never takes the only start of a later one", () => {
  expect(fit([10, 10, 10, 30])).toBe("30@4 10@0 10@1 10@2");
  expect(fit([30, 30])).toBe("30@0 30@4");
  expect(fit([20, 20, 20, 11])).toBe("20@0 20@2 20@4 11@6");
});

test("nothing moves what is in use", () => {
  expect(fit([70], [inUse(10, 6, 1)], true)).toBe(
    "1 of 7g.64gb are wanted, and 0 fit beside what exists. Use another card.",
  );
});

test("an idle instance that is what was asked for is adopted", () => {
  expect(fit([10], [idle(10, 0, 1)])).toBe("10@0*");
  expect(fit([10, 10], [idle(10, 0, 1)])).toBe("10@0* 10@1");
  expect(fit([20], [idle(10, 0, 1)])).toBe("20@2");
});

test("an idle instance in the way is named for removal only where that is allowed, and no more than needed", () => {
  const existing = [idle(10, 0, 1), idle(10, 5, 1)];
  expect(fit([30], existing)).toBe(
    "1 of 3g.32gb are wanted, and 0 fit beside what exists. Removing the idle instances would make room.",
  );
  expect(fit([30], existing, true)).toBe("-10@5 30@4");
  expect(fit([70], existing, true)).toBe("-10@0 -10@5 70@0");
  expect(fit([10], existing, true)).toBe("10@0*");
});

test("a refusal has a reason for each profile that is wanted", () => {
  expect(fit([99, 10])).toMatch(/^The card has no profile 99\. It has: 1g\.8gb \(10\), .* 1g\.8gb fits by itself/);
  expect(fit([11, 11])).toBe("2 of 1g.8gb+me are wanted, and the card makes at most 1. Ask for less on one card.");
  expect(fit([30, 30, 10])).toBe(
    "3g.32gb fits by itself, not together with the rest that is wanted. Use another card. 1g.8gb fits by itself, not together with the rest that is wanted. Use another card.",
  );
});

test("engines that instances share are given out once", () => {
  const twelve = (wanted: readonly number[]): string =>
    shown(fitProfiles(TWELVE, { wanted, existing: [], mayRemoveIdle: false }));
  expect(twelve([3, 2, 2, 2])).toBe("2@0 2@3 2@6 3@9");
  expect(twelve([3, 1])).toMatch(/fits by itself, not together/);
  expect(twelve([4, 1, 1])).toBe("4@0 1@6 1@9");
});

test("what the driver says is not free is not promised, until something was removed", () => {
  const profiles = EIGHT.profiles.map((profile) => (profile.id === 10 ? { ...profile, instancesFree: 1 } : profile));
  const answer = (wanted: readonly number[]): string =>
    shown(fitProfiles({ profiles }, { wanted, existing: [], mayRemoveIdle: false }));
  expect(answer([10])).toBe("10@6");
  expect(answer([10, 10])).toBe("2 of 1g.8gb are wanted, and 1 fit beside what exists. Use another card.");
});

test("nothing wanted is a plan that does nothing", () => {
  expect(fitProfiles(EIGHT, { wanted: [], existing: [idle(10, 0, 1)], mayRemoveIdle: true })).toEqual({
    kind: "fits",
    placements: [],
    removals: [],
  });
});

test("the order of the wishes, of the table and of what exists changes nothing", () => {
  const existing = [inUse(10, 5, 1), idle(20, 0, 2), idle(10, 2, 1)];
  const request = { wanted: [10, 20, 10], existing, mayRemoveIdle: true };
  const turned = { wanted: [20, 10, 10], existing: existing.toReversed(), mayRemoveIdle: true };
  const card = { profiles: EIGHT.profiles.toReversed() };
  expect(shown(fitProfiles(card, turned))).toBe(shown(fitProfiles(EIGHT, request)));
});

test("the capacity says for each profile how many more can be had, those that idle among them", () => {
  const fits = (existing: readonly MigInstance[], mayRemoveIdle: boolean): number[] =>
    capacityOf(EIGHT, { existing, mayRemoveIdle }).map((each) => each.fits);
  expect(fits([], false)).toEqual([7, 1, 3, 2, 1]);
  expect(fits([inUse(10, 0, 1)], false)).toEqual([6, 1, 2, 1, 0]);
  expect(fits([idle(30, 0, 4)], false)).toEqual([3, 1, 1, 2, 0]);
  expect(fits([idle(30, 0, 4)], true)).toEqual([7, 1, 3, 2, 1]);
  expect(fits([inUse(11, 0, 1), idle(10, 1, 1)], true)).toEqual([6, 0, 2, 1, 0]);
});

test("a grid beyond what the agent plans is refused by name and never planned wrongly", () => {
  const profiles = [makeProfile({ placements: { starts: [0, 31], size: 1 } })];
  expect(() => fitProfiles({ profiles }, { wanted: [1], existing: [], mayRemoveIdle: false })).toThrow("31:1");
});
