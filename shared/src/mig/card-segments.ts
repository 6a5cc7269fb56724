export interface CardSegment<Slot> {
  readonly start: number;
  readonly size: number;
  /** Whose part it is; null where the card is free. */
  readonly slot: Slot | null;
}

/** A card from left to right, as a person would draw it: its parts, and the holes between them. Pure. */
export function cardSegments<Slot extends { readonly part: { readonly start: number; readonly size: number } | null }>(
  units: number,
  slots: readonly Slot[],
): CardSegment<Slot>[] {
  const segments: CardSegment<Slot>[] = [];
  let at = 0;
  for (const slot of slots.toSorted((a, b) => (a.part?.start ?? 0) - (b.part?.start ?? 0))) {
    if (slot.part === null) continue;
    const { start, size } = slot.part;
    if (start > at) segments.push({ start: at, size: start - at, slot: null });
    segments.push({ start, size, slot });
    at = start + size;
  }
  if (at < units) segments.push({ start: at, size: units - at, slot: null });
  return segments;
}
