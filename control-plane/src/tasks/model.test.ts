import { newId } from "@hostler/shared/ids.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import type { FailureClass } from "@hostler/shared/states.ts";
import type { ResultClaims } from "@hostler/shared/tasks.ts";
import { describe, expect, test } from "vitest";
import { judgeLoss, judgeResult } from "./model.ts";
import type { TaskRow } from "./store.ts";

const random = (): number => 0.5;

function makeTask(overrides: Partial<TaskRow> = {}): TaskRow {
  return {
    id: newId("task", systemClock),
    nodeId: newId("node", systemClock),
    operationId: newId("operation", systemClock),
    targetId: newId("allocation", systemClock),
    kind: "slice.vm_provision",
    state: "leased",
    params: "{}",
    fence: "7",
    attempt: 1,
    failures: 0,
    crashes: 0,
    crashPhase: null,
    phase: "image",
    grantDigest: "0".repeat(64),
    cancelRequested: false,
    ...overrides,
  };
}

function failedWith(failureClass: FailureClass): ResultClaims {
  return {
    iss: newId("node", systemClock),
    jti: newId("task", systemClock),
    tdig: "0".repeat(64),
    fence: "7",
    iat: 1,
    outcome: "failed",
    facts: {},
    failure: {
      code: "command_failed",
      class: failureClass,
      phase: "image",
      message: "as the test says",
      leftovers: [],
    },
  };
}

describe("a failure", () => {
  test.each([
    ["transient", "retry"],
    ["capacity", "place_again"],
    ["device", "place_again"],
    ["host", "place_again"],
    ["permanent", "ended"],
  ] as const)("of class %s: %s", (failureClass, kind) => {
    expect(judgeResult(makeTask(), failedWith(failureClass), random).kind).toBe(kind);
  });

  test("that passes is tried again so often and no more, waiting longer each time", () => {
    const delays: number[] = [];
    let task = makeTask({ kind: "slice.vm_release" });
    for (;;) {
      const verdict = judgeResult(task, failedWith("transient"), random);
      if (verdict.kind !== "retry") break;
      delays.push(verdict.retry.delayMs);
      expect(verdict.retry.failures).toBe(task.failures + 1);
      task = makeTask({ kind: "slice.vm_release", failures: verdict.retry.failures });
    }
    expect(delays).toHaveLength(9);
    expect(delays).toEqual(delays.toSorted((a, b) => a - b));
  });

  test("that passes three times on one host takes a slice to another one", () => {
    const kinds = [0, 1, 2].map(
      (failures) => judgeResult(makeTask({ failures }), failedWith("transient"), random).kind,
    );
    expect(kinds).toEqual(["retry", "retry", "place_again"]);
  });

  test("of a release stays with its host, and of what was cancelled is the end", () => {
    expect(judgeResult(makeTask({ kind: "slice.vm_release" }), failedWith("device"), random).kind).toBe("ended");
    expect(judgeResult(makeTask({ cancelRequested: true }), failedWith("transient"), random).kind).toBe("ended");
  });
});

describe("a task that lost its holder", () => {
  test("is dead after three times in one phase, and starts to count anew in another", () => {
    const first = judgeLoss(makeTask(), "agent crashed", random);
    expect(first).toMatchObject({ kind: "retry", retry: { crashes: 1, crashPhase: "image", delayMs: 0 } });
    const second = judgeLoss(makeTask({ crashes: 1, crashPhase: "image" }), "lease lapsed", random);
    expect(second).toMatchObject({ kind: "retry", retry: { crashes: 2, crashPhase: "image" } });
    const elsewhere = judgeLoss(makeTask({ crashes: 2, crashPhase: "image", phase: "start" }), "agent crashed", random);
    expect(elsewhere).toMatchObject({ kind: "retry", retry: { crashes: 1, crashPhase: "start" } });
    const third = judgeLoss(makeTask({ crashes: 2, crashPhase: "image" }), "agent crashed", random);
    expect(third).toEqual({ kind: "dead", reason: "Its host was lost 3 times in phase image." });
    expect(judgeLoss(makeTask({ crashes: 2, crashPhase: null, phase: null }), "agent crashed", random)).toEqual({
      kind: "dead",
      reason: "Its host was lost 3 times before its first phase.",
    });
  });

  test("to an agent that was stopped in order counts for nothing", () => {
    const verdict = judgeLoss(makeTask({ crashes: 2, crashPhase: "image" }), "agent restarted", random);
    expect(verdict).toMatchObject({ kind: "retry", retry: { crashes: 2, failures: 0, delayMs: 0 } });
  });

  test("waits for its silent host as long as it must when it is a release", () => {
    const release = makeTask({ kind: "slice.vm_release", crashes: 9, crashPhase: "image" });
    expect(judgeLoss(release, "lease lapsed", random).kind).toBe("retry");
    expect(judgeLoss(release, "agent crashed", random).kind).toBe("dead");
  });
});
