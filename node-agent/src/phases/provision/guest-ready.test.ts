import { expect, test } from "vitest";
import { guestReady } from "./guest-ready.ts";

test.each([
  [{ readyAfterMs: 12 }, null],
  [{ devices: ["10de:2330"], devicesInGuest: "seen" }, "Seen from inside: 10de:2330."],
  [
    { devices: ["10de:2330", "10de:22a3"], devicesInGuest: "unproven" },
    "The guest said nothing of its devices: that it sees 10de:2330 10de:22a3 is unproven.",
  ],
])("what a tenant reads of %j", (facts, words) => {
  expect(guestReady.summary?.(facts)).toBe(words);
});
