import type { DueEvent, Progress } from "./delivery-store.ts";
import type { Place } from "./store.ts";

/** The events of one aggregate, which go one after the other. */
export type Lane = readonly DueEvent[];

/** Cuts a page into lanes. The one whose first event is the oldest comes first. */
export function lanesOf(page: readonly DueEvent[]): Lane[] {
  const lanes = new Map<string, DueEvent[]>();
  for (const due of page) {
    const lane = lanes.get(due.event.aggregateId) ?? [];
    lanes.set(due.event.aggregateId, lane);
    lane.push(due);
  }
  return [...lanes.values()];
}

/** What a round settled, in whatever order; and from that, how far the sink's position may move. */
export interface RoundProgress {
  /** The next page of news, which must hold everything that is due up to its last event and not settled. */
  begin(page: readonly DueEvent[]): void;
  settle(due: DueEvent, how: "delivered" | "buried"): void;
  /** Nothing is due up to there but what is settled. */
  reach(place: Place): void;
  read(): Progress;
}

export function makeProgress(from: Place & { readonly settled: readonly number[] }): RoundProgress {
  let place: Place = { position: from.position, placedAt: from.placedAt };
  let settled = new Set(from.settled);
  let page: readonly DueEvent[] = [];
  let next = 0;
  const replayed: number[] = [];
  let hasDelivered = false;
  const moveTo = (reached: Place): void => {
    if (reached.position <= place.position) return;
    place = { position: reached.position, placedAt: reached.placedAt };
    settled = new Set([...settled].filter((position) => position > place.position));
  };
  return {
    begin: (due) => {
      page = due;
      next = 0;
    },
    settle: (due, how) => {
      hasDelivered ||= how === "delivered";
      if (due.isReplay) {
        replayed.push(due.position);
        return;
      }
      settled.add(due.position);
      for (let first = page[next]; first !== undefined && settled.has(first.position); first = page[next]) {
        next += 1;
        moveTo(first);
      }
    },
    reach: moveTo,
    read: () => ({ place, settled: [...settled], replayed, hasDelivered }),
  };
}
