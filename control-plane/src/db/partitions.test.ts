import { afterEach, beforeEach, expect, test } from "vitest";
import { maintainPartitions, PARTITIONED } from "./partitions.ts";
import { createTestDatabase, type TestDatabase } from "./test-database.ts";

let database: TestDatabase;
/** Noon of the day on which the tables were made, a week before their last one: midnight may have passed since. */
let madeAtMs = 0;
beforeEach(async () => {
  database = await createTestDatabase();
  const [, year, month, day] =
    /_(\d{4})(\d\d)(\d\d)$/.exec((await partitionsOf("telemetry_samples")).at(-1) ?? "") ?? [];
  madeAtMs = Date.UTC(Number(year), Number(month) - 1, Number(day), 12) - 7 * DAY_MS;
});
afterEach(async () => await database.close());

const DAY_MS = 86_400_000;
const inDays = (days: number): Date => new Date(madeAtMs + days * DAY_MS);
const dayOf = (time: Date): string => time.toISOString().slice(0, 10).replaceAll("-", "");
const partitionsOf = async (table: string): Promise<string[]> =>
  (
    await database.sql<{ name: string }[]>`
      select inhrelid::regclass::text as name from pg_inherits where inhparent = ${table}::regclass order by 1
    `
  ).map((row) => row.name);

test("every table of the list is made for yesterday, today and a week ahead, by whichever of many replicas comes first", async () => {
  const later = inDays(3);
  const reports = await Promise.all(
    Array.from({ length: 8 }, async () => await maintainPartitions(database.sql, later, {})),
  );
  for (const { table } of PARTITIONED) {
    const made = reports.flatMap((report) => report.made).filter((name) => name.startsWith(`${table}_2`));
    expect(made.toSorted()).toEqual([8, 9, 10].map((days) => `${table}_${dayOf(inDays(days))}`));
    expect(await partitionsOf(table)).toContain(`${table}_${dayOf(inDays(10))}`);
  }
});

test("a day past its time is dropped, as late as the operator says", async () => {
  const yesterday = `telemetry_samples_${dayOf(inDays(-1))}`;
  expect((await maintainPartitions(database.sql, inDays(6), {})).dropped).toEqual([]);
  expect((await maintainPartitions(database.sql, inDays(7), { telemetry_samples: 8 })).dropped).toEqual([]);
  expect((await maintainPartitions(database.sql, inDays(7), {})).dropped).toEqual([yesterday]);
  expect(await partitionsOf("telemetry_samples")).not.toContain(yesterday);
});

test("partitions are made while others write to the table, and cover its days in UTC whatever the session's zone", async () => {
  await database.sql.begin(async (tx) => {
    await tx`lock table telemetry_samples in row exclusive mode`;
    expect((await maintainPartitions(database.sql, inDays(1), {})).made).toContain(
      `telemetry_samples_${dayOf(inDays(8))}`,
    );
  });
  const [bounds] = await database.sql<{ from: string }[]>`
    select pg_get_expr(relpartbound, oid) as from from pg_class where relname = ${`telemetry_samples_${dayOf(inDays(8))}`}
  `;
  expect(bounds?.from).toContain(`${inDays(8).toISOString().slice(0, 10)} 00:00:00+00`);
});

test("a drop that would have to wait gives up within a second and comes again", async () => {
  await database.sql.begin(async (tx) => {
    await tx`select from telemetry_samples limit 1`;
    await expect(maintainPartitions(database.sql, inDays(7), {})).rejects.toThrow(/lock timeout/);
  });
  expect((await maintainPartitions(database.sql, inDays(7), {})).dropped).toHaveLength(1);
});
