import { migKindOf, migSlotId, parseSlotId } from "@hostler/shared/gpu-slots.ts";
import { migTableFault } from "@hostler/shared/mig/mig-grid.ts";
import { planMig } from "@hostler/shared/mig/plan-mig.ts";
import { faultsOf } from "@hostler/shared/mig/test-oracle.ts";
import { anyTaken } from "@hostler/shared/mig/test-tables.ts";
import { gpuSchema } from "@hostler/shared/node-protocol.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { migOfferOf } from "./mig-profile.ts";
import { recordedCards } from "./test-tables.ts";

/** What real cards say of themselves, through the agent's reader to the control plane's planner. */
const CARDS = recordedCards();

test.skipIf(CARDS.length > 0)("there are no recorded cards beside this checkout: nothing to plan on", () => {
  expect(CARDS).toEqual([]);
});

test.for(CARDS)("on the recorded card $name every plan is right and none is missed", ({ profiles }) => {
  const table = { profiles: profiles.map(migOfferOf) };
  expect(gpuSchema.shape.mig.parse(table)).toEqual(table);
  expect(migTableFault(table.profiles)).toBeNull();
  expect(new Set(table.profiles.map(({ name }) => migKindOf("x", name))).size).toBe(table.profiles.length);
  const anyRequest = fc.record({
    wanted: fc.array(fc.constantFrom(...table.profiles.map(({ id }) => id)), { maxLength: 4 }),
    taken: anyTaken(table),
  });
  fc.assert(
    fc.property(anyRequest, (request) => {
      const plan = planMig(table, request);
      expect(faultsOf(table, request, plan)).toEqual([]);
      for (const place of plan?.places ?? [])
        expect(parseSlotId(migSlotId("GPU-1", place))?.place).toEqual({
          profileId: place.profileId,
          start: place.start,
        });
    }),
    { numRuns: 150 },
  );
});
