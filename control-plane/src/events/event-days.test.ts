import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { webhookSchema, type Webhook } from "@hostler/shared/api/events.ts";
import * as z from "zod";
import { pino } from "pino";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import { MIGRATIONS_DIR } from "../db/migrate.ts";
import { keepEvents, maintainPartitions } from "../db/partitions.ts";
import { retireSinks } from "./retire-sinks.ts";
import { sequenceEvents } from "./sequence-events.ts";
import { FIRST_PLACE, readEvents } from "./store.ts";
import { openEventPlane, openReceiver, type EventPlane } from "./test-event-plane.ts";

let plane: EventPlane;
beforeEach(async () => {
  plane = await openEventPlane();
});
afterEach(async () => await plane.close());

const DAY_MS = 86_400_000;
const inDays = (days: number): Date => new Date(Date.now() + days * DAY_MS);
const HOOKS = "/api/ops/v1/webhooks";

const placed = async () => await readEvents(plane.sql, { scope: "platform", after: FIRST_PLACE, limit: 1000 });
const allPlaced = async () =>
  await waitFor("every event has its position", async () => {
    await sequenceEvents(plane, "ever");
    return (await plane.sql`select from events`).length === (await placed()).length;
  });
const daysOf = async (table: string): Promise<string[]> =>
  (
    await plane.sql<{ name: string }[]>`
      select inhrelid::regclass::text as name from pg_inherits where inhparent = ${table}::regclass order by 1
    `
  ).map((row) => row.name);

/** An event of `ago` days ago, placed then; what the clock cannot be turned back for. */
async function insertOld(ago: number, position: number): Promise<void> {
  const at = inDays(-ago);
  await maintainPartitions(plane.sql, at, keepEvents(3650));
  await plane.sql`
    with written as (
      insert into events (id, aggregate_id, aggregate_version, topic, body, at, tx)
      values (${newId("event", systemClock)}, ${`agg_${position}`}, 1, 'thing.changed', '{}', ${at}, '3')
      returning seq, at
    ), tip as (
      update event_sequencer set position = ${position}, placed_at = ${at}
    )
    insert into event_positions (position, placed_at, event_seq, event_at) select ${position}, at, seq, at from written
  `;
}

async function subscribe(url: string): Promise<Webhook> {
  const { body } = await plane.call("POST", HOOKS, plane.operatorKey, { url, topics: ["thing.*"] });
  return webhookSchema.parse(body);
}
const look = async (hook: Webhook): Promise<Webhook> =>
  webhookSchema.parse((await plane.call("GET", `${HOOKS}/${hook.id}`, plane.operatorKey)).body);

test("events past their days are dropped with their positions, and those that are kept can be read", async () => {
  await insertOld(40, 1);
  await insertOld(20, 2);
  const { dropped } = await maintainPartitions(plane.sql, inDays(0), keepEvents(30));
  expect(dropped.filter((name) => name.startsWith("events_"))).not.toEqual([]);
  expect(dropped.filter((name) => name.startsWith("event_positions_"))).not.toEqual([]);
  expect((await placed()).map(({ position }) => position)).toEqual([2]);
  await plane.change("agg_a");
  await waitFor("it is placed behind", async () => {
    await sequenceEvents(plane);
    return (await placed()).map(({ position }) => position).join() === "2,3";
  });
});

test("what an active sink still has to deliver is held, told, and delivered", async () => {
  const receiver = await openReceiver();
  const hook = await subscribe(receiver.url);
  await insertOld(33, 1);
  await insertOld(1, 2);
  await plane.sql`update event_sinks set placed_at = '-infinity' where id = ${hook.id}`;
  const { held } = await maintainPartitions(plane.sql, inDays(0), keepEvents(30));
  expect(held).toContain(`events_${inDays(-33).toISOString().slice(0, 10).replaceAll("-", "")}`);
  expect(held).toContain(`event_positions_${inDays(-33).toISOString().slice(0, 10).replaceAll("-", "")}`);
  const lines: string[] = [];
  const log = pino({ level: "warn" }, { write: (line) => void lines.push(line) });
  await retireSinks({ sql: plane.sql, clock: systemClock, log }, 30);
  expect(lines.join()).toContain("holds back days");
  plane.startRelay();
  await waitFor("both came", async () => await Promise.resolve(receiver.taken.length === 2));
  await waitFor("nothing is held", async () => {
    return (await maintainPartitions(plane.sql, inDays(0), keepEvents(30))).held.length === 0;
  });
  expect((await placed()).map(({ position }) => position)).toEqual([2]);
  await receiver.close();
});

test("a sink that holds for too long is disabled with the reason, and told how many it missed when it is back", async () => {
  const hook = await subscribe("http://127.0.0.1:9/hook");
  await insertOld(38, 1);
  await insertOld(37, 2);
  await insertOld(1, 3);
  await plane.sql`update event_sinks set placed_at = '-infinity' where id = ${hook.id}`;
  await retireSinks({ sql: plane.sql, clock: systemClock, log: pino({ level: "silent" }) }, 30);
  expect(await look(hook)).toMatchObject({
    state: "disabled",
    reason: "It is 38 days behind; events are kept for 30.",
  });
  expect((await maintainPartitions(plane.sql, inDays(0), keepEvents(30))).held).toEqual([]);
  await plane.call("POST", `${HOOKS}/${hook.id}/replay`, plane.operatorKey, {});
  const events = await plane.sql<{ body: unknown }[]>`select body from events where topic = 'webhook.enabled'`;
  expect(events.map(({ body }) => body)).toEqual([{ missed: 2 }]);
});

test("an event without a position is never dropped", async () => {
  await plane.change("agg_a");
  const name = `events_${inDays(0).toISOString().slice(0, 10).replaceAll("-", "")}`;
  const { held } = await maintainPartitions(plane.sql, inDays(40), keepEvents(30));
  expect(held).toContain(name);
  await allPlaced();
  expect((await maintainPartitions(plane.sql, inDays(40), keepEvents(30))).dropped).toContain(name);
});

test("the migration keeps every event, its place, its sinks and its dead letters", async () => {
  const { sql } = plane;
  await sql.unsafe("drop schema public cascade; create schema public");
  const files = (await readdir(MIGRATIONS_DIR)).filter((name) => name.endsWith(".sql")).toSorted();
  const at = files.indexOf("0009_event_days.sql");
  for (const file of files.slice(0, at)) await sql.unsafe(await readFile(join(MIGRATIONS_DIR, file), "utf8"));
  await sql`insert into principals (id, kind, name) values ('prn', 'api_key', 'p')`;
  await sql.begin(async (tx) => {
    await tx`
      insert into events (id, aggregate_id, aggregate_version, topic, body, at)
      select 'evt_' || i, 'agg_' || i % 3, i, 'thing.changed', '{"n":1}', now() - (90 - i) * interval '1 day'
      from generate_series(1, 90) as i
    `;
    await tx`insert into event_positions (position, event_seq) select seq, seq from events where seq <= 88`;
    await tx`
      insert into event_sinks (id, kind, url, secret_encrypted, state, position, created_by)
      values ('whk', 'webhook', 'https://example.org', 'x', 'active', 40, 'prn')
    `;
    await tx`insert into events (id, aggregate_id, aggregate_version, topic, body) values ('evt_w', 'whk', 1, 't', '{}')`;
    await tx`insert into audit_log (actor, action, target_id, target_version, outcome) values ('a', 't', 'whk', 1, 'succeeded')`;
    await tx`
      insert into event_dead_letters (sink_id, position, event_id, aggregate_id, attempts, last_error)
      values ('whk', 30, 'evt_30', 'agg_0', 12, 'no')
    `;
  });
  await sql.begin(async (tx) => {
    for (const file of files.slice(at)) await tx.unsafe(await readFile(join(MIGRATIONS_DIR, file), "utf8"));
  });
  await sequenceEvents(plane, "ever");
  expect((await placed()).map(({ position, event }) => [position, event.id])).toEqual([
    ...Array.from({ length: 90 }, (_, index) => [index + 1, `evt_${index + 1}`]),
    [91, "evt_w"],
  ]);
  const [sink] = await sql<{ days: number }[]>`
    select extract(day from now() - placed_at)::int as days from event_sinks where position = 40
  `;
  expect(sink?.days).toBe(50);
  const [letter] = await sql<{ event: unknown }[]>`select event from event_dead_letters`;
  expect(letter?.event).toMatchObject({ id: "evt_30", aggregateId: "agg_0", aggregateVersion: 30, body: { n: 1 } });
  expect(z.object({ event: z.object({ at: z.string() }) }).parse(letter).event.at).toMatch(/\.\d{6}Z$/);
  expect(await daysOf("events")).toHaveLength(90 + 7);
  await expect(sql`update events set topic = 'x'`).rejects.toThrow("append-only");
  await expect(sql.unsafe(`truncate ${(await daysOf("events"))[3]}`)).rejects.toThrow("append-only");
});
