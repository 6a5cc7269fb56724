import { randomUUID } from "node:crypto";
import { setTimeout as laterMs } from "node:timers/promises";
import { webhookSchema, natsSinkSchema, type Event, type Webhook } from "@hostler/shared/api/events.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { pino } from "pino";
import * as z from "zod";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import type { DeliveryLimits } from "./deliver-events.ts";
import { claimSink, releaseSink, type ClaimedSink } from "./delivery-store.ts";
import { disableSink } from "./disable-sink.ts";
import type { EventSink } from "./event-sink.ts";
import { openEventPlane, outOfOrder, type EventPlane } from "./test-event-plane.ts";
import { TARGETS, type Target } from "./test-targets.ts";

const FAST: Partial<DeliveryLimits> = { backoff: { firstMs: 5, maxMs: 20 }, attemptsMax: 4 };
const PATIENT: Partial<DeliveryLimits> = { ...FAST, attemptsMax: 10_000 };

let plane: EventPlane;
beforeEach(async () => {
  plane = await openEventPlane();
  plane.startSequencer();
});
afterEach(async () => await plane.close());

const sinkSchema = z.union([webhookSchema, natsSinkSchema]);
const look = async (path: string): Promise<Webhook> =>
  sinkSchema.parse((await plane.call("GET", path, plane.operatorKey)).body);
const replay = async (path: string, body: object = {}): Promise<void> => {
  expect((await plane.call("POST", `${path}/replay`, plane.operatorKey, body)).status).toBe(200);
};
const lettersOf = async (path: string): Promise<unknown[]> => {
  const { body } = await plane.call("GET", `${path}/dead-letters`, plane.operatorKey);
  return z.array(z.unknown()).parse(body["items"]);
};

/** Versions of one aggregate by turns with another's, of which the second version is refused where `bad.changed` is. */
async function changeGoodAndBad(rounds: number): Promise<void> {
  for (let round = 1; round <= rounds; round += 1) {
    await plane.change("agg_bad", { topic: round === 2 ? "bad.changed" : "thing.changed" });
    await plane.change("agg_good");
  }
}

describe.each(TARGETS)("to $kind", ({ open, awayError, testTopic }) => {
  let target: Target;
  const others: Target[] = [];
  beforeEach(async () => {
    target = await open();
  });
  afterEach(async () => {
    await target.close();
    for (const other of others.splice(0)) await other.close();
  });
  const distinct = async (of = target): Promise<number> => new Set((await of.taken()).map(({ id }) => id)).size;
  const untilTaken = async (count: number, of = target): Promise<readonly Event[]> =>
    await waitFor(`${count} events were taken`, async () => (await distinct(of)) >= count && (await of.taken()));

  test("two relays deliver everything, each aggregate in order, while writers commit", async () => {
    plane.startRelay();
    plane.startRelay();
    const second = await open();
    others.push(second);
    await target.subscribe(plane);
    await second.subscribe(plane);
    const writers = Array.from({ length: 4 }, async (_, writer) => {
      for (let round = 0; round < 25; round += 1) await plane.change(`agg_${(writer + round) % 3}`);
    });
    await Promise.all(writers);
    expect(outOfOrder(await untilTaken(100))).toEqual([]);
    expect(outOfOrder(await untilTaken(100, second))).toEqual([]);
  });

  test("a relay that is stopped in the middle is followed by another; nothing is lost, nothing overtakes", async () => {
    await target.subscribe(plane);
    for (let round = 0; round < 60; round += 1) await plane.change(`agg_${round % 4}`);
    for (let stopped = 1; stopped < 5; stopped += 1) {
      const stop = plane.startRelay({ pageMax: 4 });
      await untilTaken(stopped * 6);
      await stop();
    }
    plane.startRelay();
    expect(outOfOrder(await untilTaken(60))).toEqual([]);
  });

  test("a relay that died keeps its sink only until the lease lapses", async () => {
    await target.subscribe(plane);
    await plane.change("agg_a");
    await plane.sql`update event_sinks set lease_token = 'dead', lease_until = now() + interval '700 milliseconds'`;
    plane.startRelay();
    await laterMs(300);
    expect(await target.taken()).toEqual([]);
    await untilTaken(1);
  });

  test("that is away gets everything when it is back, in order, and the position does not move before", async () => {
    plane.startRelay(PATIENT);
    const path = await target.subscribe(plane);
    await plane.change("agg_a");
    await untilTaken(1);
    await target.refuse("everything");
    for (let round = 0; round < 3; round += 1) await plane.change("agg_a");
    await waitFor("the failure is told", async () => awayError.test((await look(path)).lastError ?? ""));
    await waitFor("all three are placed and none is passed", async () => (await look(path)).behind === 3);
    await target.refuse("nothing");
    expect((await untilTaken(4)).map(({ aggregateVersion }) => aggregateVersion)).toEqual([1, 2, 3, 4]);
  });

  test("that goes away again and again loses nothing, and nothing overtakes", async () => {
    plane.startRelay(PATIENT);
    plane.startRelay(PATIENT);
    await target.subscribe(plane);
    const isWriting = (async () => {
      for (let round = 0; round < 400; round += 1) await plane.change(`agg_${round % 7}`);
    })();
    for (let cut = 1; cut <= 3; cut += 1) {
      await untilTaken(cut * 40);
      await target.refuse("everything");
      await laterMs(50);
      await target.refuse("nothing");
    }
    await isWriting;
    expect(outOfOrder(await untilTaken(400))).toEqual([]);
  });

  test("a poisoned event leaves with its aggregate's later ones, others go on, and a replay is in order", async () => {
    plane.startRelay(FAST);
    await target.refuse("bad");
    const path = await target.subscribe(plane);
    await changeGoodAndBad(4);
    await waitFor("three dead letters", async () => {
      const { deadLetters, behind } = await look(path);
      return deadLetters === 3 && behind === 0;
    });
    expect((await target.taken()).filter(({ aggregateId }) => aggregateId === "agg_good")).toHaveLength(4);
    expect(await lettersOf(path)).toMatchObject([
      { attempts: 4, event: { aggregateVersion: 2, body: { note: "Zoë\nline" } } },
      { attempts: 0, event: { aggregateVersion: 3 } },
      { attempts: 0, event: { aggregateVersion: 4 } },
    ]);

    await replay(path);
    await waitFor("the replay was given up", async () =>
      (await lettersOf(path)).every((letter) => JSON.stringify(letter).includes('"isReplaying":false')),
    );
    await target.refuse("nothing");
    await plane.change("agg_bad");
    await replay(path);
    expect(outOfOrder(await untilTaken(9))).toEqual([]);
    await waitFor("no dead letters", async () => (await look(path)).deadLetters === 0);
  });

  test("an event that waits to be tried again holds back its aggregate alone, and what others took does not come twice", async () => {
    await target.refuse("bad");
    await target.subscribe(plane);
    await changeGoodAndBad(10);
    for (let round = 0; round < 5; round += 1) {
      const stop = plane.startRelay(PATIENT);
      await waitFor("it was tried", async () => {
        const rows =
          await plane.sql`select from event_sinks where attempts > ${round * 2} and cardinality(settled) = 9`;
        return rows.length > 0;
      });
      await stop();
    }
    const taken = await target.taken();
    expect(taken.filter(({ aggregateId }) => aggregateId === "agg_good")).toHaveLength(10);
    expect(taken.filter(({ aggregateId }) => aggregateId === "agg_bad")).toHaveLength(1);
    await target.refuse("nothing");
    plane.startRelay(PATIENT);
    expect(outOfOrder(await untilTaken(20))).toEqual([]);
    expect(await target.taken()).toHaveLength(20);
  });

  test("with too many dead letters is disabled with the reason, and loses nothing by it", async () => {
    plane.startRelay({ ...FAST, attemptsMax: 1, deadLettersMax: 3 });
    await target.refuse("bad");
    const path = await target.subscribe(plane, []);
    await changeGoodAndBad(12);
    await waitFor("it is disabled", async () => (await look(path)).state === "disabled");
    expect(await look(path)).toMatchObject({ deadLetters: 3, reason: expect.stringContaining("3 dead letters") });
    await target.refuse("nothing");
    await replay(path);
    const taken = await waitFor("all came, and in its own time the word that it was disabled", async () => {
      const all = await target.taken();
      const things = all.filter(({ aggregateId }) => aggregateId.startsWith("agg_"));
      return (
        new Set(things.map(({ id }) => id)).size === 24 && all.some(({ topic }) => topic.endsWith(".disabled")) && all
      );
    });
    expect(outOfOrder(taken.filter(({ aggregateId }) => aggregateId.startsWith("agg_")))).toEqual([]);
    expect(taken.some(({ topic }) => topic.endsWith(".disabled"))).toBe(true);
  });

  test("a replay since a time sends everything from then on once more", async () => {
    plane.startRelay(FAST);
    const path = await target.subscribe(plane);
    await plane.change("agg_a");
    await untilTaken(1);
    await laterMs(20);
    const since = new Date(Date.now() - 10).toISOString();
    await plane.change("agg_a");
    await plane.change("agg_a");
    await untilTaken(3);
    await laterMs(150);
    await replay(path, { since });
    await waitFor("two came again", async () => (await target.taken()).length === 5);
    expect((await target.taken()).map((event) => event.aggregateVersion)).toEqual([1, 2, 3, 2, 3]);
  });

  test("that takes nothing for long is disabled with a reason and an event, and misses nothing when it is back", async () => {
    plane.startRelay({ ...PATIENT, disableAfterMs: 100 });
    const path = await target.subscribe(plane);
    await target.refuse("everything");
    await plane.change("agg_a");
    await waitFor("it is disabled", async () => (await look(path)).state === "disabled");
    expect((await look(path)).reason).toMatch(awayError);
    const events = await plane.sql`select from events where topic like '%.disabled'`;
    expect(events).toHaveLength(1);
    await plane.change("agg_a");
    await target.refuse("nothing");
    await replay(path);
    await untilTaken(2);
    expect((await look(path)).state).toBe("active");
  });

  test("once removed is told nothing more, and its secret is forgotten", async () => {
    plane.startRelay(FAST);
    const other = await open();
    others.push(other);
    const path = await target.subscribe(plane);
    await other.subscribe(plane);
    expect((await plane.call("DELETE", path, plane.operatorKey)).status).toBe(204);
    await plane.change("agg_a");
    await untilTaken(1, other);
    expect(await target.taken()).toEqual([]);
    expect((await plane.call("GET", path, plane.operatorKey)).status).toBe(404);
    expect(await plane.sql`select from event_sinks where secret_encrypted = ''`).toHaveLength(1);
  });

  test("topics choose, and a test event says what became of it", async () => {
    plane.startRelay(FAST);
    const path = await target.subscribe(plane, ["other.*", "thing.moved"]);
    await plane.change("agg_a");
    await plane.change("agg_a", { topic: "thing.moved" });
    await plane.change("agg_a", { topic: "other.thing" });
    expect((await untilTaken(2)).map(({ topic }) => topic)).toEqual(["thing.moved", "other.thing"]);
    const answer = await plane.call("POST", `${path}/test`, plane.operatorKey);
    expect(answer.body).toMatchObject({ delivered: true, error: null });
    expect((await target.taken()).at(-1)?.topic).toBe(testTopic);
    await target.refuse("everything");
    const failed = await plane.call("POST", `${path}/test`, plane.operatorKey);
    expect(failed.body).toMatchObject({ delivered: false, error: expect.stringMatching(awayError) });
  });
});

test("any sink behind the port is served in the same way, with as many aggregates at once as it wants and never one twice", async () => {
  const taken: Event[] = [];
  const underWay = new Set<string>();
  const wrong: string[] = [];
  let atOnce = 0;
  let failures = 3;
  const sink: EventSink = {
    inFlightMax: 4,
    deliver: async (event) => {
      if (event.topic !== "thing.changed") return { outcome: "delivered", status: null };
      if (underWay.has(event.aggregateId)) wrong.push(event.id);
      underWay.add(event.aggregateId);
      atOnce = Math.max(atOnce, underWay.size);
      await waitFor("others are under way too", async () => await Promise.resolve(atOnce >= 4));
      underWay.delete(event.aggregateId);
      failures -= 1;
      if (failures >= 0) return { outcome: "failed", status: null, error: "the broker is away" };
      taken.push(event);
      return { outcome: "delivered", status: null };
    },
  };
  const path = "/api/ops/v1/webhooks";
  await plane.call("POST", path, plane.operatorKey, { url: "http://127.0.0.1:9/not-used", topics: ["thing.*"] });
  for (let round = 0; round < 30; round += 1) await plane.change(`agg_${round % 6}`);
  await waitFor("all are placed", async () => {
    const rows = await plane.sql`
      select from event_positions p join events e on e.seq = p.event_seq where e.topic = 'thing.changed'
    `;
    return rows.length === 30;
  });
  plane.startRelay({ ...FAST, failuresMax: 100 }, () => sink);
  await waitFor("all taken", async () => await Promise.resolve(new Set(taken.map(({ id }) => id)).size === 30));
  expect({ atOnce, wrong, outOfOrder: outOfOrder(taken) }).toEqual({ atOnce: 4, wrong: [], outOfOrder: [] });
});

const makeSinks = async (count: number): Promise<void> => {
  for (let made = 0; made < count; made += 1) {
    const body = { url: `http://127.0.0.1:9/${made}`, topics: ["thing.*"] };
    await plane.call("POST", "/api/ops/v1/webhooks", plane.operatorKey, body);
  }
};

test("a sink that was served waits behind those that were not, however much there is to do", async () => {
  await makeSinks(2);
  await plane.change("agg_a");
  await waitFor("both are due", async () => {
    const due = await plane.sql`select from event_sinks where position < (select position from event_sequencer)`;
    return due.length === 2;
  });
  const claim = async (): Promise<ClaimedSink> =>
    (await claimSink(plane.sql, { token: randomUUID(), leaseMs: 20_000 })) ?? expect.fail("nothing is due");
  const first = await claim();
  await releaseSink(plane.sql, first);
  const second = await claim();
  expect(second.id).not.toBe(first.id);
  await releaseSink(plane.sql, second);
  expect((await claim()).id).toBe(first.id);
});

test("receivers that are slow with much to take leave others their turn, however many they are", async () => {
  // As many as a relay serves at once, and one more.
  await makeSinks(17);
  const ids = (await plane.sql<{ id: string }[]>`select id from event_sinks order by next_attempt_at`).map(
    ({ id }) => id,
  );
  const last = ids.at(-1);
  const takenBy = new Map<string, number>();
  for (let round = 0; round < 40; round += 1) await plane.change("agg_a");
  const openSink = ({ id }: ClaimedSink): EventSink => ({
    inFlightMax: 1,
    deliver: async () => {
      if (id !== last) await laterMs(25);
      takenBy.set(id, (takenBy.get(id) ?? 0) + 1);
      return { outcome: "delivered", status: null };
    },
  });
  plane.startRelay({ turnMs: 50 }, openSink);
  const others = await waitFor("the last one has its turn", async () => {
    await Promise.resolve();
    if (last === undefined || !takenBy.has(last)) return undefined;
    return ids.slice(0, -1).map((id) => takenBy.get(id) ?? 0);
  });
  expect(others.filter((taken) => taken === 40)).toEqual([]);
  await waitFor("everybody has everything", async () => {
    await Promise.resolve();
    return ids.every((id) => (takenBy.get(id) ?? 0) === 40);
  });
});

test("a sink that is not active is not said to have been disabled once more", async () => {
  const lines: string[] = [];
  const log = pino({}, { write: (line: string) => void lines.push(line) });
  await makeSinks(1);
  const [row] = await plane.sql<{ id: string }[]>`select id from event_sinks`;
  const sink = { id: row?.id ?? "", kind: "webhook", projectId: null } as const;
  for (let round = 0; round < 2; round += 1)
    await disableSink({ sql: plane.sql, clock: systemClock, log }, sink, "as the test says");
  expect(lines).toHaveLength(1);
});
