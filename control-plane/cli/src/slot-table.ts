import type { Node } from "@hostler/shared/api/nodes.ts";
import { cardSegments } from "@hostler/shared/mig/card-segments.ts";
import { table } from "./output.ts";

type Slot = Node["slots"][number];

/** The GPUs of a host; those that are handed out in parts with what lies where on them, and their parts below them. Pure. */
export function slotTable(slots: readonly Slot[]): string {
  if (slots.length === 0) return "It has no GPUs.";
  return table(
    ["slot", "kind", "state", "given to", "in parts"],
    slots.map((slot) => [
      slot.part === null ? slot.gpu.uuid : `  ${slot.gpu.uuid}`,
      slot.gpu.kind,
      slot.state,
      slot.reason === null ? (slot.allocationId ?? "-") : [slot.allocationId, slot.reason].filter(Boolean).join(": "),
      partsText(slot, slots),
    ]),
  );
}

/** `[██▓▓····] free: 2× h100-1g.10gb or 1× h100-2g.20gb`. Neighbours are told apart by their shade; x is quarantined. */
function partsText(card: Slot, slots: readonly Slot[]): string {
  if (card.divided === null) return card.part === null ? "-" : "";
  const parts = slots.filter(({ part }) => part?.cardUuid === card.gpu.uuid);
  const bar = cardSegments(card.divided.units, parts)
    .map(({ size, slot }, index) =>
      (slot === null ? "·" : slot.state === "quarantined" ? "x" : "█▓"[index % 2])?.repeat(size),
    )
    .join("");
  const free = card.divided.free.filter((one) => one.free > 0).map((one) => `${one.free}× ${one.kind}`);
  return `[${bar}] free: ${free.length === 0 ? "nothing" : free.join(" or ")}`;
}
