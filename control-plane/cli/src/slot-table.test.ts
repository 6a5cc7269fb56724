import { nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import { expect, test } from "vitest";
import { slotTable } from "./slot-table.ts";

type Slot = Node["slots"][number];

function makeSlot(uuid: string, overrides: Partial<Slot> = {}): Slot {
  const common = { model: "NVIDIA H100", memoryMib: 1, pciAddress: "", migCapable: true, healthy: true, fault: null };
  const gpu = { uuid, index: 0, kind: "h100", ...common };
  const slot = { gpu, state: "available", allocationId: null, reason: null, part: null, divided: null, ...overrides };
  return nodeSchema.shape.slots.element.parse(slot);
}

const part = (profile: number, start: number, size: number, overrides: Partial<Slot>): Slot =>
  makeSlot(`GPU-1/${profile}:${start}`, { state: "owned", part: { cardUuid: "GPU-1", start, size }, ...overrides });

test("a card in parts is drawn from left to right, and says what could be had of it", () => {
  const free = [
    { kind: "h100-3g.40gb", free: 0 },
    { kind: "h100-2g.20gb", free: 1 },
    { kind: "h100-1g.10gb", free: 2 },
  ];
  const slots = [
    makeSlot("GPU-0"),
    makeSlot("GPU-1", { state: "divided", divided: { units: 8, free } }),
    part(14, 0, 2, {}),
    part(14, 2, 2, { state: "quarantined", reason: "release: no receipt" }),
    part(19, 6, 1, {}),
    makeSlot("GPU-2", { state: "divided", divided: { units: 4, free: [{ kind: "a30-1g.6gb", free: 0 }] } }),
  ];
  const lines = slotTable(slots).split("\n");
  expect(lines[1]).toMatch(/^GPU-0 +h100 +available +- +-$/);
  expect(lines[2]).toContain("[██xx··▓·] free: 1× h100-2g.20gb or 2× h100-1g.10gb");
  expect(lines[4]).toMatch(/^ {2}GPU-1\/14:2 +h100 +quarantined +release: no receipt$/);
  expect(lines[6]).toContain("[····] free: nothing");
  expect(slotTable([])).toBe("It has no GPUs.");
});
