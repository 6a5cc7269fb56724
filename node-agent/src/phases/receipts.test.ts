import { receiptGaps } from "@hostler/shared/receipts.ts";
import { ROOT_WAS_GIVEN } from "@hostler/shared/tasks.ts";
import { expect, test } from "vitest";
import type { JournalState, PhaseRecord } from "../journal/model.ts";
import { receiptOf } from "./receipts.ts";

const done = (facts: PhaseRecord["facts"] = {}): PhaseRecord => ({
  status: "done",
  undo: "none",
  facts,
  durationMs: 1,
});
const WHOLE = { reset: "function-level", healthAfter: "healthy", scrub: "unproven" };
const health = done({ healthyGpuUuids: ["GPU-1"] });

test("after a tenant who may have been root no receipt is clean, whatever was done; before the account was begun it may be", () => {
  const given = (access: string, start: JournalState["provision"]): JournalState["provision"] => ({
    preflight: done({ access }),
    health,
    bind: done(),
    ...start,
  });
  const reasonOf = (provision: JournalState["provision"]): string | null => {
    const receipt = receiptOf("GPU-1", provision, WHOLE);
    const gaps = receiptGaps({ receipts: [receipt], disk: { method: "none", readBack: "absent" } }, ["GPU-1"]);
    expect(gaps["GPU-1"] ?? null).toBe(receipt.reason);
    return receipt.reason;
  };
  expect(reasonOf(given("user", { start: done() }))).toBeNull();
  expect(reasonOf(given("root", {}))).toBeNull();
  expect(reasonOf(given("root", { start: done() }))).toBe(ROOT_WAS_GIVEN);
  expect(reasonOf(given("root", { start: { ...done(), status: "failed" } }))).toBe(ROOT_WAS_GIVEN);
  expect(reasonOf({ preflight: done({ access: "root" }), start: done() })).toBe(ROOT_WAS_GIVEN);
});
