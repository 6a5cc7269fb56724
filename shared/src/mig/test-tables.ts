import fc from "fast-check";
import type { MigProfileOffer } from "../node-protocol.ts";
import type { MigTable, MigTaken } from "./plan-mig.ts";
import { isDisjoint, isWithinRules } from "./test-oracle.ts";

export function makeProfile(overrides: Partial<MigProfileOffer> = {}): MigProfileOffer {
  return {
    id: 1,
    name: "1g.8gb",
    memoryGib: 8,
    multiprocessors: 10,
    engines: { decoders: 0, encoders: 0, jpegs: 0, opticalFlows: 0 },
    instancesTotal: 2,
    starts: [0, 1],
    size: 1,
    ...overrides,
  };
}

/** A made-up card of 8 units, shaped like the common ones: the seventh unit's memory goes to no single small instance. */
export const EIGHT: MigTable = {
  profiles: [
    makeProfile({ id: 10, name: "1g.8gb", instancesTotal: 7, starts: [0, 1, 2, 3, 4, 5, 6], size: 1 }),
    makeProfile({ id: 11, name: "1g.8gb+me", instancesTotal: 1, starts: [0, 1, 2, 3, 4, 5, 6], size: 1 }),
    makeProfile({ id: 20, name: "2g.16gb", instancesTotal: 3, memoryGib: 16, starts: [0, 2, 4], size: 2 }),
    makeProfile({ id: 30, name: "3g.32gb", instancesTotal: 2, memoryGib: 32, starts: [0, 4], size: 4 }),
    makeProfile({ id: 70, name: "7g.64gb", instancesTotal: 1, memoryGib: 64, starts: [0], size: 8 }),
  ],
};

/** A made-up card of 12 units whose instances share four decoders, all of which one kind of instance takes. */
export const TWELVE: MigTable = {
  profiles: [
    sharing({ id: 1, name: "1g.20gb", instancesTotal: 4, starts: [0, 3, 6, 9], size: 3 }, 1),
    sharing({ id: 2, name: "1g.20gb-me", instancesTotal: 4, starts: [0, 3, 6, 9], size: 3 }, 0),
    sharing({ id: 3, name: "1g.20gb+me.all", instancesTotal: 1, starts: [0, 3, 6, 9], size: 3 }, 4),
    sharing({ id: 4, name: "2g.40gb", instancesTotal: 2, memoryGib: 40, starts: [0, 6], size: 6 }, 2),
    sharing({ id: 5, name: "4g.80gb", instancesTotal: 1, memoryGib: 80, starts: [0], size: 12 }, 4),
  ],
};

function sharing(profile: Partial<MigProfileOffer>, decoders: number): MigProfileOffer {
  return makeProfile({ ...profile, engines: { decoders, encoders: 0, jpegs: 0, opticalFlows: 0 } });
}

/** A table that nobody has seen: any sizes, any starts, any totals, engines that run out. */
export const anyTable: fc.Arbitrary<MigTable> = fc
  .integer({ min: 2, max: 12 })
  .chain((units) => fc.array(anyProfile(units), { minLength: 1, maxLength: 5 }))
  .map((profiles) => ({ profiles: profiles.map((profile, id) => ({ ...profile, id, name: `${id}g.8gb` })) }));

function anyProfile(units: number): fc.Arbitrary<MigProfileOffer> {
  const count = fc.integer({ min: 0, max: 2 });
  return fc
    .record({
      size: fc.integer({ min: 1, max: units }),
      memoryGib: fc.integer({ min: 1, max: 3 }),
      instancesTotal: fc.integer({ min: 1, max: 5 }),
      engines: fc.record({ decoders: count, encoders: count, jpegs: count, opticalFlows: count }),
    })
    .chain(({ size, ...rest }) =>
      fc
        .uniqueArray(fc.integer({ min: 0, max: units - size }), { minLength: 1, maxLength: 6 })
        .map((starts) => makeProfile({ ...rest, starts, size })),
    );
}

/** Something that may lie on the card: tried one by one, kept where it is right beside the others. */
export function anyTaken(table: MigTable): fc.Arbitrary<readonly MigTaken[]> {
  const place = fc
    .constantFrom(...table.profiles)
    .chain(({ id, starts, size }) =>
      fc.record({ profileId: fc.constant(id), start: fc.constantFrom(...starts), size: fc.constant(size) }),
    );
  return fc.array(place, { maxLength: 6 }).map((places) =>
    places.reduce<readonly MigTaken[]>((kept, each) => {
      const next = [...kept, each];
      return isDisjoint(next) && isWithinRules(table, next) ? next : kept;
    }, []),
  );
}
