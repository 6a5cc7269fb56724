import { allocationOperationSchema } from "@hostler/shared/api/allocations.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import { parseSlotId } from "@hostler/shared/gpu-slots.ts";
import { migCapacityOf, type MigTaken } from "@hostler/shared/mig/plan-mig.ts";
import { isDisjoint, isWithinRules } from "@hostler/shared/mig/test-oracle.ts";
import { EIGHT } from "@hostler/shared/mig/test-tables.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { requestRelease } from "../../deploy/demo/journey.ts";
import { startScriptedFleet, type FleetNode, type ScriptedFleet } from "../support/scripted-fleet.ts";
import { makeGpu } from "../support/scripted-node.ts";

/** Many at once want parts of few cards and give them back: what the database then says must be possible on a card. */
let fleet: ScriptedFleet;
let nodes: readonly FleetNode[];
beforeAll(async () => {
  fleet = await startScriptedFleet();
  const table = { mig: { profiles: [...EIGHT.profiles] } };
  const gpus = (name: string) => [0, 1].map((index) => makeGpu(name, index, table));
  nodes = [await fleet.add("alpha", gpus("alpha")), await fleet.add("beta", gpus("beta"))];
});
afterAll(async () => await fleet?.close());

const KINDS = EIGHT.profiles.map(({ name }) => `h100-${name.replace("+", ".")}`);

/** The same numbers for the same seed: a linear congruence, which is random enough to choose by. */
function makeDice(seed: number): (sides: number) => number {
  let state = seed;
  return (sides) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * sides);
  };
}

async function create(name: string, kind: string, count: number): Promise<string | null> {
  const body = { name, image: "tiny", gpus: { count, kind }, labels: { "hostler.dev/driver": "mock" } };
  const path = `/api/tenant/v1/projects/${fleet.projectId}/allocations`;
  const made = await fleet.operator.post(path, body, allocationOperationSchema).catch((error: unknown) => error);
  if (isAppError(made, "capacity_unavailable")) return null;
  if (made instanceof Error) throw made;
  return allocationOperationSchema.parse(made).allocation.id;
}

/** Every card's parts do not overlap, keep the card's rules, and leave free what is said to be free. */
async function expectPossible(): Promise<void> {
  for (const node of nodes) {
    const { slots } = await fleet.show(node);
    for (const { gpu, divided } of slots.filter(({ part }) => part === null)) {
      const taken = slots.flatMap(({ gpu: { uuid }, part, state }): MigTaken[] => {
        if (part?.cardUuid !== gpu.uuid) return [];
        expect(state).toBe("owned");
        const place = parseSlotId(uuid)?.place;
        return [{ profileId: place?.profileId ?? -1, start: place?.start ?? -1, size: part.size }];
      });
      expect(isDisjoint(taken)).toBe(true);
      expect(isWithinRules(EIGHT, taken)).toBe(true);
      const free = migCapacityOf(EIGHT, taken).map((one) => one.free);
      expect(divided?.free.map((one) => one.free)).toEqual(free);
    }
  }
  const [wrong] = await fleet.sql<{ count: number }[]>`
    select count(*)::int from allocations a
    where a.ended_at is null and jsonb_array_length(a.gpus) <> (select count(*) from gpu_slots s where s.allocation_id = a.id)
  `;
  expect(wrong?.count).toBe(0);
}

test.each([1, 2, 3])(
  "seed %i: never two on one place, and what is given back is given again",
  { timeout: 120_000 },
  async (seed) => {
    const dice = makeDice(seed);
    const live = new Set<string>();
    let refused = 0;
    for (let round = 0; round < 5; round += 1) {
      const releases = [...live].filter(() => dice(2) === 0);
      for (const id of releases) live.delete(id);
      const wishes = Array.from({ length: 24 }, (_, index) => ({
        name: `s${seed}-${round}-${index}`,
        kind: KINDS[dice(KINDS.length)] ?? "",
        count: 1 + dice(2),
      }));
      // No host takes a task, so what is given back is gone at once, while others ask.
      const [made] = await Promise.all([
        Promise.all(wishes.map(async ({ name, kind, count }) => await create(name, kind, count))),
        Promise.all(releases.map(async (id) => await requestRelease(fleet.operator, id))),
      ]);
      for (const id of made) if (id !== null) live.add(id);
      refused += made.filter((id) => id === null).length;
      await expectPossible();
    }
    expect(refused).toBeGreaterThan(0);
    expect(live.size).toBeGreaterThan(0);
    await Promise.all([...live].map(async (id) => await requestRelease(fleet.operator, id)));
    await expectPossible();
    // All is back: the largest fits on every card again.
    expect(
      await Promise.all([0, 1, 2, 3].map(async (index) => await create(`all${seed}-${index}`, "h100-7g.64gb", 1))),
    ).not.toContain(null);
    const [left] = await fleet.sql<
      { ids: string[] }[]
    >`select array_agg(id) as ids from allocations where ended_at is null`;
    await Promise.all((left?.ids ?? []).map(async (id) => await requestRelease(fleet.operator, id)));
    await expectPossible();
  },
);
