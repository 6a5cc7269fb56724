import { FAILURE_CLASS_NAMES } from "@hostler/shared/states.ts";
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { decideRetry, RETRY_POLICIES, type FailedWork, type WorkFailure } from "./retry-policy.ts";

const failed = (overrides: Partial<FailedWork>): FailedWork => ({
  failureClass: "transient",
  attempt: 1,
  crashesInPhase: 0,
  random: () => 0.5,
  ...overrides,
});
const CLASSES: readonly WorkFailure[] = [...FAILURE_CLASS_NAMES, "capacity", "crash"];

test.each([
  ["a first transient failure is tried again within its first second", { attempt: 1 }, { kind: "retry", delayMs: 550 }],
  ["the wait doubles", { attempt: 3 }, { kind: "retry", delayMs: 2200 }],
  ["the wait has a ceiling", { attempt: 9, random: () => 0.999999 }, { kind: "retry", delayMs: 60_000 }],
  ["a tenth transient failure is the last", { attempt: 10 }, { kind: "fail" }],
  ["a permanent failure is not tried again", { failureClass: "permanent" }, { kind: "fail" }],
  ["want of capacity goes back to placement", { failureClass: "capacity", attempt: 9 }, { kind: "place_again" }],
  ["want of capacity ends too", { failureClass: "capacity", attempt: 10 }, { kind: "fail" }],
  ["a faulty device is left for another place", { failureClass: "device" }, { kind: "place_again" }],
  ["a faulty host is left for another place", { failureClass: "host", attempt: 2 }, { kind: "place_again" }],
  ["three faulty hosts are enough", { failureClass: "host", attempt: 3 }, { kind: "fail" }],
  ["a crash is tried again", { failureClass: "crash", crashesInPhase: 2 }, { kind: "retry", delayMs: 1100 }],
  [
    "a third crash in one phase is a dead letter",
    { failureClass: "crash", attempt: 1, crashesInPhase: 3 },
    { kind: "dead_letter", reason: "Its worker was lost 3 times in the same phase." },
  ],
] as const)("%s", (_fact, overrides, decision) => {
  expect(decideRetry(failed(overrides))).toEqual(decision);
});

test("attempts and crashes are counted apart", () => {
  expect(decideRetry(failed({ failureClass: "crash", attempt: 1000, crashesInPhase: 1 })).kind).toBe("retry");
  expect(decideRetry(failed({ failureClass: "transient", attempt: 1, crashesInPhase: 1000 })).kind).toBe("retry");
});

test("every class comes to an end, and no wait is longer than its ceiling or nothing at all", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...CLASSES),
      fc.integer({ min: 1, max: 10_000 }),
      fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
      (failureClass, tries, random) => {
        const decision = decideRetry({ failureClass, attempt: tries, crashesInPhase: tries, random: () => random });
        const { triesMax, backoff } = RETRY_POLICIES[failureClass];
        const isOver = decision.kind === "fail" || decision.kind === "dead_letter";
        expect(isOver).toBe(tries >= triesMax);
        if (decision.kind !== "retry") return;
        expect(decision.delayMs).toBeGreaterThan(0);
        expect(decision.delayMs).toBeLessThanOrEqual(backoff.maxMs);
      },
    ),
  );
});
