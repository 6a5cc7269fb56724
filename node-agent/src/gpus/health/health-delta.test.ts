import { assert, expect, test } from "vitest";
import type { GpuFields } from "./driver-reading.ts";
import { type HealthSnapshot, healthDelta, takeSnapshot } from "./health-delta.ts";
import { makeGpu, makeKernelLog } from "./testing.ts";

function snapshot(fields: GpuFields = {}, bootId = "boot-1"): HealthSnapshot {
  const taken = takeSnapshot(makeGpu(fields), { events: [], firstUs: 0, lastUs: 150_000_000 }, bootId);
  assert(taken !== null, "The sample GPU has a UUID and an address.");
  return taken;
}

test("a tenancy that left nothing behind is clean, and says what this GPU does not count", () => {
  expect(healthDelta(snapshot(), snapshot(), makeKernelLog())).toMatchObject({
    isClean: true,
    notCounted: ["retired_pages.single_bit_ecc.count", "retired_pages.double_bit.count"],
  });
});

test("new remaps, errors and Xids are in the delta, older Xids and those of other GPUs are not", () => {
  const after = snapshot({ "remapped_rows.uncorrectable": "2", "ecc.errors.uncorrected.aggregate.total": "1" });
  const log = makeKernelLog(
    "NVRM: Xid (PCI:0000:86:00): 94, pid=1, name=x, before the hand-over",
    "NVRM: Xid (PCI:0000:86:00): 63, Row Remapper: New row",
    "NVRM: Xid (PCI:0000:86:00): 63, Row Remapper: New row",
    "NVRM: Xid (PCI:0000:87:00): 79, GPU has fallen off the bus",
  );
  const delta = healthDelta(snapshot(), after, log);
  expect(delta).toMatchObject({ isClean: false, xids: [{ number: 63, count: 2 }], faults: [] });
  expect(delta.grown.map(({ counter, by }) => [counter, by])).toEqual([
    ["remapped_rows.uncorrectable", 2],
    ["ecc.errors.uncorrected.aggregate.total", 1],
  ]);
});

test.each([
  ["a count that cannot be read any more", snapshot({ "remapped_rows.uncorrectable": "ERR!" }), /cannot be read/],
  ["a boot in between", snapshot({}, "boot-2"), /booted in between/],
  ["another GPU", snapshot({ uuid: "GPU-other" }), /The GPU was/],
])("%s is not proven clean", (_what, after, words) => {
  const delta = healthDelta(snapshot(), after, makeKernelLog());
  expect(delta.isClean).toBe(false);
  expect(delta.unproven.join(" ")).toMatch(words);
});

test("a count that went back is not proven clean", () => {
  const delta = healthDelta(snapshot({ "ecc.errors.corrected.aggregate.total": "7" }), snapshot(), makeKernelLog());
  expect(delta).toMatchObject({ isClean: false, unproven: [expect.stringContaining("went back from 7 to 0")] });
});

test("a kernel log that was overwritten proves nothing", () => {
  const log = { events: [], firstUs: 151_000_000, lastUs: 900_000_000 };
  expect(healthDelta(snapshot(), snapshot(), log)).toMatchObject({ isClean: false });
});

test("a fault without an Xid is in the delta", () => {
  const log = makeKernelLog("x", "vfio-pci 0000:86:00.0: Unable to change power state from D3cold to D0");
  expect(healthDelta(snapshot(), snapshot(), log)).toMatchObject({
    isClean: false,
    faults: [expect.stringContaining("D3cold")],
  });
});
