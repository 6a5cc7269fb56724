import { systemClock } from "@hostler/shared/clock.ts";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";
import { inTransaction } from "../db/transaction.ts";
import { syncIncidents, type SeenIncident, type Sighting } from "./sync-incidents.ts";

let database: TestDatabase;
beforeAll(async () => void (database = await createTestDatabase()));
afterAll(async () => await database.close());

const deps = { clock: systemClock, log: pino({ level: "silent" }) };
const incident = (about: string): SeenIncident => ({
  key: `key/${about}`,
  kind: "slice.gone",
  severity: "critical",
  aboutId: about,
  nodeId: null,
  detail: `nothing of ${about}`,
});

async function see(source: string, seen: SeenIncident[], changes: Partial<Sighting> = {}): Promise<void> {
  const sighting = { source, seen, undecided: [], escalateAfterMs: 60_000, ...changes };
  await inTransaction(database.sql, async (tx) => await syncIncidents(tx, deps, sighting));
}

async function statesOf(about: string): Promise<unknown[]> {
  const rows = await database.sql`
    select state, version, seen_count from incidents where about_id = ${about} order by opened_at
  `;
  return rows.map((row) => [row["state"], row["version"], row["seen_count"]]);
}

async function topicsOf(about: string): Promise<string[]> {
  const rows = await database.sql<{ topic: string }[]>`
    select topic from events where body ->> 'aboutId' = ${about} order by at, aggregate_version
  `;
  return rows.map((row) => row.topic);
}

test("what is seen again and again is one incident, which escalates once and closes by itself", async () => {
  for (let time = 0; time < 3; time += 1) await see("one", [incident("a")]);
  expect(await statesOf("a")).toEqual([["open", 1, 3]]);
  await database.sql`update incidents set opened_at = opened_at - interval '61 seconds' where about_id = 'a'`;
  for (let time = 0; time < 2; time += 1) await see("one", [incident("a")]);
  expect(await statesOf("a")).toEqual([["escalated", 2, 5]]);
  await see("one", []);
  await see("one", []);
  expect(await statesOf("a")).toEqual([["closed", 3, 5]]);
  expect(await topicsOf("a")).toEqual(["incident.opened", "incident.escalated", "incident.closed"]);
  const audit = await database.sql`select from audit_log where detail ->> 'aboutId' = 'a'`;
  expect(audit).toHaveLength(3);
});

test("what comes back is another incident", async () => {
  await see("two", [incident("b")]);
  await see("two", []);
  await see("two", [incident("b")]);
  expect((await statesOf("b")).map((row) => (row as unknown[])[0])).toEqual(["closed", "open"]);
});

test("a source closes only its own, and nothing that it could not judge", async () => {
  await see("three", [incident("c"), incident("d")]);
  await see("four", []);
  await see("three", [incident("c")], { undecided: ["d"] });
  expect(await statesOf("d")).toEqual([["open", 1, 1]]);
  await see("three", [incident("c")]);
  expect(await statesOf("d")).toEqual([["closed", 2, 1]]);
  expect(await statesOf("c")).toEqual([["open", 1, 3]]);
});

test("two who see the same at the same time open one", async () => {
  await Promise.all(Array.from({ length: 8 }, async () => await see("five", [incident("e"), incident("f")])));
  expect(await statesOf("e")).toEqual([["open", 1, 8]]);
  expect(await topicsOf("f")).toEqual(["incident.opened"]);
});
