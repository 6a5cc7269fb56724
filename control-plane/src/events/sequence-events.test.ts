import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import { MIGRATIONS_DIR } from "../db/migrate.ts";
import type { Queryable } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import { sequenceEvents } from "./sequence-events.ts";
import { FIRST_PLACE, readEvents, trySequencerLock } from "./store.ts";
import { openEventPlane, outOfOrder, type EventPlane } from "./test-event-plane.ts";

let plane: EventPlane;
beforeEach(async () => {
  plane = await openEventPlane();
});
afterEach(async () => await plane.close());

const placed = async () => await readEvents(plane.sql, { scope: "platform", after: FIRST_PLACE, limit: 10_000 });
const eventCount = async (): Promise<number> => {
  const [row] = await plane.sql<{ count: number }[]>`select count(*)::int as count from events`;
  return row?.count ?? 0;
};
const allPlaced = async () =>
  await waitFor("every event has its position", async () => {
    await sequenceEvents(plane);
    const found = await placed();
    return found.length === (await eventCount()) && found;
  });

test("positions have no gaps, and hold each aggregate's order under concurrent commits on two replicas", async () => {
  plane.startSequencer();
  plane.startSequencer();
  const writers = Array.from({ length: 8 }, async (_, writer) => {
    for (let round = 0; round < 25; round += 1) {
      // Each writes elsewhere first, so that transaction numbers and row locks disagree.
      await plane.change(`agg_${(writer * 7 + round) % 5}`, {
        before: async (tx) => await tx`insert into test_aggregates (id, version) values (${`x${writer}_${round}`}, 1)`,
      });
    }
  });
  await Promise.all(writers);
  const found = await allPlaced();
  expect(found.map(({ position }) => position)).toEqual(Array.from({ length: 200 }, (_, index) => index + 1));
  expect(outOfOrder(found.map(({ event }) => event))).toEqual([]);
  expect(new Set(found.map(({ event }) => event.id)).size).toBe(200);
});

test("the later change of an aggregate stays the later one when its transaction began first", async () => {
  let goOn = (): void => undefined;
  const mayGoOn = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  let began = (): void => undefined;
  const hasBegun = new Promise<void>((resolve) => {
    began = resolve;
  });
  const early = plane.change("agg_a", {
    before: async (tx) => {
      await tx`insert into test_aggregates (id, version) values ('elsewhere', 1)`;
      began();
      await mayGoOn;
    },
  });
  await hasBegun;
  await plane.change("agg_a");
  await sequenceEvents(plane);
  goOn();
  await early;
  const found = await allPlaced();
  expect(found.map(({ event }) => event.aggregateVersion)).toEqual([1, 2]);
  const rows = await plane.sql<{ version: number }[]>`
    select aggregate_version as version from events order by tx, seq
  `;
  expect(rows.map((row) => row.version)).toEqual([2, 1]);
});

test("a transaction that stays open holds no other back, and its event is neither lost nor skipped", async () => {
  let commit = (): void => undefined;
  const mayCommit = new Promise<void>((resolve) => {
    commit = resolve;
  });
  let wrote = (): void => undefined;
  const hasWritten = new Promise<void>((resolve) => {
    wrote = resolve;
  });
  const long = plane.change("agg_long", {
    after: async () => {
      wrote();
      await mayCommit;
    },
  });
  await hasWritten;
  for (let round = 0; round < 5; round += 1) await plane.change("agg_short");
  await sequenceEvents(plane);
  expect(outOfOrder((await placed()).map(({ event }) => event))).toEqual([]);
  expect(await placed()).toHaveLength(5);
  commit();
  await long;
  expect((await allPlaced()).map(({ event }) => event.aggregateId).at(-1)).toBe("agg_long");
});

test("a change whose number lies below a running transaction does not overtake the one before it, which lies above", async () => {
  const gate = () => {
    let open = (): void => undefined;
    const opened = new Promise<void>((resolve) => {
      open = resolve;
    });
    return { open, opened };
  };
  const [lowBegan, lowMayGo, midBegan, midMayGo] = [gate(), gate(), gate(), gate()];
  const low = plane.change("agg_a", {
    before: async (tx) => {
      await tx`insert into test_aggregates (id, version) values ('low', 1)`;
      lowBegan.open();
      await lowMayGo.opened;
    },
  });
  await lowBegan.opened;
  const mid = plane.change("agg_mid", {
    after: async () => {
      midBegan.open();
      await midMayGo.opened;
    },
  });
  await midBegan.opened;
  await plane.change("agg_a");
  lowMayGo.open();
  await low;
  await sequenceEvents(plane);
  expect((await placed()).map(({ event }) => event.aggregateVersion)).toEqual([1, 2]);
  midMayGo.open();
  await mid;
  expect(await allPlaced()).toHaveLength(3);
});

test("a rolled back change has no position", async () => {
  const failing = plane.change("agg_a", { after: async () => await Promise.reject(new Error("rolled back")) });
  await expect(failing).rejects.toThrow("rolled back");
  await plane.change("agg_b");
  expect((await allPlaced()).map(({ event }) => event.aggregateId)).toEqual(["agg_b"]);
});

test("one replica at a time places events", async () => {
  await plane.change("agg_a");
  await waitFor("older transactions ended", async () => {
    const held = await inTransaction(plane.sql, async (tx) => {
      expect(await trySequencerLock(tx)).toBe(true);
      return await sequenceEvents(plane);
    });
    return held === null;
  });
  expect(await placed()).toEqual([]);
});

/** What pg_dump brings along: numbers that this server has not given yet. */
async function bringHighNumbers(db: Queryable): Promise<void> {
  await db`alter table events disable trigger events_append_only`;
  await db`update events set tx = '9000000000000'`;
  await db`alter table events enable always trigger events_append_only`;
  await db`update event_sequencer set below_tx = '9000000000001'`;
}

test("after a restore onto a server with lower transaction numbers, old and new events are placed once each", async () => {
  await plane.change("agg_a");
  await plane.change("agg_a");
  await allPlaced();
  await bringHighNumbers(plane.sql);
  await plane.change("agg_a");
  await sequenceEvents(plane);
  expect(await placed()).toHaveLength(2);
  plane.startSequencer();
  const found = await allPlaced();
  expect(found.map(({ event }) => event.aggregateVersion)).toEqual([1, 2, 3]);
});

test("a restore under a control plane that runs on is noticed once the database is back", async () => {
  plane.startSequencer();
  await plane.change("agg_a");
  await waitFor("it is placed", async () => (await placed()).length === 1);
  await plane.sql.begin(async (tx) => {
    await tx`lock table event_sequencer in access exclusive mode`;
    const waiting = await waitFor("the sequencer waits for it", async () => {
      const [found] = await plane.sql<{ pid: number }[]>`
        select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
      `;
      return found;
    });
    await bringHighNumbers(tx);
    await tx`select pg_terminate_backend(${waiting.pid})`;
  });
  await plane.change("agg_a");
  await waitFor("what came since is placed", async () => (await placed()).length === 2);
});

test("events from before there was an order come first in it, in the order of their making", async () => {
  const { sql } = plane;
  const insert = async (version: number) =>
    await sql`
    insert into events (id, aggregate_id, aggregate_version, topic, body)
    values (${`evt_${version}`}, 'agg_a', ${version}, 'thing.changed', '{}')
  `;
  await sql.unsafe("drop schema public cascade; create schema public");
  const files = (await readdir(MIGRATIONS_DIR)).toSorted();
  const at = files.indexOf("0004_events.sql");
  for (const file of files.slice(0, at)) await sql.unsafe(await readFile(join(MIGRATIONS_DIR, file), "utf8"));
  for (const version of [1, 2, 3]) await insert(version);
  for (const file of files.slice(at)) await sql.unsafe(await readFile(join(MIGRATIONS_DIR, file), "utf8"));
  await insert(4);
  const found = await allPlaced();
  expect(found.map(({ position, event }) => [position, event.aggregateVersion])).toEqual([
    [1, 1],
    [2, 2],
    [3, 3],
    [4, 4],
  ]);
});

test("positions are never changed", async () => {
  await plane.change("agg_a");
  await allPlaced();
  await expect(plane.sql`delete from event_positions`).rejects.toThrow("append-only");
  await expect(plane.sql`truncate event_positions cascade`).rejects.toThrow("append-only");
});
