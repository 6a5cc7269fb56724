import { parseSlotId } from "@hostler/shared/gpu-slots.ts";
import { migCapacityOf, type MigTable, type MigTaken } from "@hostler/shared/mig/plan-mig.ts";
import { isDisjoint, isWithinRules } from "@hostler/shared/mig/test-oracle.ts";
import { anyTable, anyTaken, EIGHT, TWELVE } from "@hostler/shared/mig/test-tables.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { choosePlaces, profileOf, type DividedCard } from "./choose-places.ts";

function makeCard(index: number, table: MigTable, taken: readonly MigTaken[] = []): DividedCard {
  const profiles = [...table.profiles];
  const common = {
    model: "NVIDIA H100",
    memoryMib: 81_559,
    pciAddress: "0000:01:00.0",
    migCapable: true,
    healthy: true,
  };
  const gpu: Gpu = { uuid: `GPU-${index}`, index, kind: "h100", fault: null, mig: { profiles }, ...common };
  return { gpu, taken };
}

const at = (profileId: number, start: number, size: number): MigTaken => ({ profileId, start, size });

/** The names of the slots, or null. */
function chosen(cards: readonly DividedCard[], kind: string, count = 1): string | null {
  return (
    choosePlaces(cards, kind, count)
      ?.map(({ gpu }) => gpu.uuid)
      .join(" ") ?? null
  );
}

test("a card that something lies on is filled before a whole one is broken", () => {
  const broken = makeCard(1, EIGHT, [at(10, 6, 1)]);
  expect(chosen([makeCard(0, EIGHT), broken], "h100-1g.8gb")).toBe("GPU-1/10:4");
  expect(chosen([makeCard(0, EIGHT), broken], "h100-3g.32gb")).toBe("GPU-1/30:0");
  expect(chosen([makeCard(0, EIGHT), broken], "h100-7g.64gb")).toBe("GPU-0/70:0");
});

test("a card with a hole that nothing larger fits into gives that before another one breaks a larger hole", () => {
  const holed = makeCard(1, EIGHT, [at(30, 4, 4), at(10, 0, 1), at(10, 3, 1)]);
  const halved = makeCard(0, EIGHT, [at(30, 4, 4), at(20, 0, 2)]);
  expect(chosen([halved, holed], "h100-1g.8gb")).toBe("GPU-1/10:1");
});

test("cards whose tables differ are each planned by their own", () => {
  const cards = [makeCard(0, TWELVE), makeCard(1, EIGHT)];
  expect(chosen(cards, "h100-2g.40gb", 2)).toBe("GPU-0/4:0 GPU-0/4:6");
  expect(chosen(cards, "h100-2g.16gb", 3)).toBe("GPU-1/20:0 GPU-1/20:2 GPU-1/20:4");
  expect(chosen(cards, "h100-2g.16gb", 4)).toBeNull();
  expect(chosen(cards, "a100-2g.16gb")).toBeNull();
});

const anyCards = fc
  .array(
    fc
      .oneof(fc.constantFrom(EIGHT, TWELVE), anyTable)
      .chain((table) => anyTaken(table).map((taken) => ({ table, taken }))),
    { minLength: 1, maxLength: 4 },
  )
  .map((rows) => rows.map(({ table, taken }, index) => makeCard(index, table, taken)));

test("as many places are found as the cards have room for together, none more, and none lies over another", () => {
  fc.assert(
    fc.property(anyCards, fc.nat(), (cards, choice) => {
      const kinds = cards.flatMap(
        ({ gpu }) => gpu.mig?.profiles.map(({ name }) => `h100-${name.replace("+", ".")}`) ?? [],
      );
      const kind = kinds[choice % kinds.length] ?? "";
      const room = cards.reduce((sum, { gpu, taken }) => {
        const profile = profileOf(gpu, kind);
        const capacity = migCapacityOf({ profiles: gpu.mig?.profiles ?? [] }, taken);
        return sum + (capacity.find((one) => one.profile === profile)?.free ?? 0);
      }, 0);
      expect(choosePlaces(cards, kind, room + 1)).toBeNull();
      const places = choosePlaces(cards, kind, room) ?? [];
      expect(places).toHaveLength(room);
      for (const { gpu, taken } of cards) {
        const made = places.filter(({ cardUuid }) => cardUuid === gpu.uuid);
        expect(isDisjoint([...taken, ...made.map(({ place }) => place)])).toBe(true);
        if (made.length === 0) continue;
        expect(
          isWithinRules({ profiles: gpu.mig?.profiles ?? [] }, [...taken, ...made.map(({ place }) => place)]),
        ).toBe(true);
        for (const { gpu: part, place } of made) {
          expect(parseSlotId(part.uuid)).toEqual({
            gpuUuid: gpu.uuid,
            place: { profileId: place.profileId, start: place.start },
          });
          expect(part.kind).toBe(kind);
        }
      }
    }),
    { numRuns: 300 },
  );
});
