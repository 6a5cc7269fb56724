import { expect, test } from "vitest";
import { migKindOf, migSlotId, parseSlotId } from "./gpu-slots.ts";

const UUID = "GPU-5c0f2a31-9d1e-4f4b-8a41-0d3f9f2a7c11";

test("a slot is the whole GPU, or a place on it", () => {
  expect(parseSlotId(UUID)).toEqual({ gpuUuid: UUID, place: null });
  const place = { profileId: 19, start: 4 };
  expect(parseSlotId(migSlotId(UUID, place))).toEqual({ gpuUuid: UUID, place });
});

test("what names no slot is no slot", () => {
  for (const text of ["", "GPU-", "MIG-1", `${UUID}/`, `${UUID}/19`, `${UUID}/19:`, `${UUID}/19:4 `, `${UUID}/../19:4`])
    expect(parseSlotId(text), text).toBeNull();
});

test("the kind of a MIG slot names the card and the part of it", () => {
  expect(migKindOf("h100", "1g.10gb")).toBe("h100-1g.10gb");
  expect(migKindOf("h100", "1g.10gb+me")).toBe("h100-1g.10gb.me");
});

test("profiles of one card that differ in a sign have kinds that differ", () => {
  expect(migKindOf("rtx-pro-6000", "2g.48gb+me.all")).toBe("rtx-pro-6000-2g.48gb.me.all");
  expect(migKindOf("rtx-pro-6000", "1g.24gb-me")).toBe("rtx-pro-6000-1g.24gb-me");
  expect(migKindOf("rtx-pro-6000", "1g.24gb+me")).toBe("rtx-pro-6000-1g.24gb.me");
});
