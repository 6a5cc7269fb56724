import { expect, test } from "vitest";
import { receiptGaps } from "./receipts.ts";

const UUID = "GPU-1";
const RECEIPT = {
  gpuUuid: UUID,
  clean: true,
  reason: null,
  reset: "bus",
  healthBefore: "healthy",
  healthAfter: "healthy",
  scrub: "unproven",
};
const DISK = { method: "unlink", readBack: "absent" };

test("a GPU with a whole receipt may be handed out", () => {
  expect(receiptGaps({ receipts: [RECEIPT], disk: DISK }, [UUID])).toEqual({});
});

test.each(["reset", "healthBefore", "healthAfter", "scrub"])("a receipt without its row %s is named", (row) => {
  for (const value of [null, "", undefined])
    expect(receiptGaps({ receipts: [{ ...RECEIPT, [row]: value }], disk: DISK }, [UUID])).not.toEqual({});
});

test.each([
  [{}, "no receipt"],
  [{ receipts: "rubbish", disk: DISK }, "no receipt"],
  [{ receipts: [{ ...RECEIPT, gpuUuid: "GPU-2" }], disk: DISK }, "no receipt"],
  [{ receipts: [RECEIPT], disk: null }, "disk"],
  [{ receipts: [{ ...RECEIPT, clean: false, reason: "row remap failed" }], disk: DISK }, "row remap failed"],
  [{ receipts: [{ ...RECEIPT, healthAfter: "The GPU is gone." }], disk: DISK }, "gone"],
  [{ untouched: "yes" }, "no receipt"],
])("of %j the gap says %j", (facts, words) => {
  expect(receiptGaps(facts, [UUID])[UUID]).toContain(words);
});

test("a host that did nothing for the slice owes no receipt", () => {
  expect(receiptGaps({ untouched: true }, [UUID])).toEqual({});
});
