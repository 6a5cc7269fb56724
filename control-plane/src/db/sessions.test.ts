import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import { checkSnapshots } from "../loops/watch-snapshots.ts";
import { readOldestSnapshotAge } from "./oldest-transaction.ts";
import { openServicePool, SESSION_TIMEOUTS } from "./pool.ts";
import { createTestDatabase, type TestDatabase } from "./test-database.ts";

let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
});
afterAll(async () => await database.close());

const NAMES = ["statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"];
const EXPECTED = { statement_timeout: "30s", idle_in_transaction_session_timeout: "10s", transaction_timeout: "1min" };

test("every session of the control plane's pool has all three timeouts, where the server knows them", async () => {
  const sql = await openServicePool({ url: database.url, applicationName: "test", connectionsMax: 2 });
  const rows = await sql<{ name: string; value: string }[]>`
    select name, current_setting(name) as value from pg_settings where name = any(${NAMES})
  `;
  expect(Object.fromEntries(rows.map(({ name, value }) => [name, value]))).toEqual(EXPECTED);
  await sql.end();
});

test.each(["once", "once by indexes"] as const)("a pool plans statements %s, also those of lists", async (plans) => {
  const sql = await openServicePool({ url: database.url, applicationName: "test", connectionsMax: 1, plans });
  for (let length = 1; length <= 8; length += 1)
    await sql`select id from nodes where id = any(${Array.from({ length }, (_, at) => `node_${at}`)})`;
  const counts = await sql`
    select custom_plans::int as custom, generic_plans::int as kept from pg_prepared_statements where statement like 'select id from nodes%'
  `;
  expect([...counts]).toEqual([{ custom: 0, kept: 8 }]);
  await sql.end();
});

test("a session that no pool made gets them by one statement, which asks the server what it knows", async () => {
  const { settings } = await database.sql.begin(async (tx) => {
    await tx.unsafe(SESSION_TIMEOUTS);
    return {
      settings: await tx<{ value: string }[]>`
        select current_setting(name) as value from pg_settings where name = any(${NAMES}) order by name
      `,
    };
  });
  expect(settings.map(({ value }) => value)).toEqual(["10s", "30s", "1min"]);
});

test("a transaction that keeps its snapshot is seen, and warned of when it is too old", async () => {
  const lines: string[] = [];
  const log = pino({ level: "warn" }, { write: (line) => void lines.push(line) });
  await database.sql.begin("isolation level repeatable read", async (tx) => {
    await tx`select count(*) from nodes`;
    await waitFor("it is half a second old", async () => (await readOldestSnapshotAge(database.sql)) > 0.5);
    await checkSnapshots({ sql: database.sql, log }, 0);
    expect(lines.join()).toContain("an old transaction keeps dead rows");
  });
  lines.length = 0;
  await checkSnapshots({ sql: database.sql, log });
  expect(lines).toEqual([]);
});
