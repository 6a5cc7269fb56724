import * as fc from "fast-check";
import { expect, test } from "vitest";
import { lanesOf, makeProgress } from "./delivery-model.ts";
import type { DueEvent } from "./delivery-store.ts";

function makeDue(position: number, aggregateId = "agg_a", isReplay = false): DueEvent {
  const placedAt = `2026-01-01 00:00:${String(position).padStart(2, "0")}+00`;
  const event = { id: "", topic: "", at: "", aggregateId, aggregateVersion: position, projectId: null, body: {} };
  return { position, placedAt, event, isReplay, isBlocked: false };
}

test("lanes keep each aggregate's order, the oldest first", () => {
  const page = [makeDue(1, "agg_b"), makeDue(2), makeDue(3, "agg_b"), makeDue(4)];
  expect(lanesOf(page).map((lane) => lane.map(({ position }) => position))).toEqual([
    [1, 3],
    [2, 4],
  ]);
});

test("the position passes an event only when nothing before it is left, and never falls", () => {
  fc.assert(
    fc.property(fc.shuffledSubarray([3, 4, 7, 8, 9, 12]), fc.constantFrom([], [5], [5, 20]), (order, settledBefore) => {
      const all = [3, 4, 7, 8, 9, 12];
      const progress = makeProgress({ ...makeDue(2), settled: settledBefore });
      progress.begin(all.map((position) => makeDue(position)));
      let last = 2;
      for (const [index, position] of order.entries()) {
        progress.settle(makeDue(position), "delivered");
        const { place, settled } = progress.read();
        const open = all.filter((one) => !order.slice(0, index + 1).includes(one));
        expect(place.position).toBeLessThan(open[0] ?? 13);
        expect(place.position).toBeGreaterThanOrEqual(last);
        const known = [...order.slice(0, index + 1), ...settledBefore];
        expect(new Set(settled)).toEqual(new Set(known.filter((one) => one > place.position)));
        last = place.position;
      }
    }),
  );
});

test("a replayed dead letter moves no position", () => {
  const progress = makeProgress({ ...makeDue(9), settled: [] });
  progress.settle(makeDue(3, "agg_a", true), "delivered");
  expect(progress.read()).toMatchObject({ place: { position: 9 }, settled: [], replayed: [3], hasDelivered: true });
});

test("reaching the end forgets what was settled before it", () => {
  const progress = makeProgress({ ...makeDue(2), settled: [5, 6] });
  progress.reach(makeDue(6));
  expect(progress.read()).toMatchObject({ place: { position: 6 }, settled: [] });
  progress.reach(makeDue(4));
  expect(progress.read().place.position).toBe(6);
});
