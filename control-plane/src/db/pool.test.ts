import { afterAll, beforeAll, expect, test } from "vitest";
import { isDatabaseAway, openPool } from "./pool.ts";
import type { Sql } from "./sql.ts";
import { createTestDatabase, type TestDatabase } from "./test-database.ts";
import { inTransaction } from "./transaction.ts";

const CONNECTIONS = 8;
let database: TestDatabase;
let pool: Sql;
beforeAll(async () => {
  database = await createTestDatabase();
  pool = openPool({ url: database.url, applicationName: "to be cut", connectionsMax: CONNECTIONS });
});
afterAll(async () => {
  await pool?.end({ timeout: 1 });
  await database?.close();
});

/** Ends every connection of the pool, as a server that dies does. */
async function cutAll(): Promise<void> {
  await database.sql`
    select pg_terminate_backend(pid)
    from pg_stat_activity
    where application_name = 'to be cut' and datname = current_database()
  `;
}

test("a transaction whose connection is cut rejects, and nothing of it outlives that", async () => {
  const cut = inTransaction(pool, async (tx) => {
    await tx`select 1`;
    await cutAll();
    await tx`select 2`;
  });
  const error = await cut.catch((failure: unknown) => failure);
  expect(isDatabaseAway(error)).toBe(true);
  // The driver rolls back on a connection that is gone: that once ended the process.
  expect(await pool`select 1 as one`).toEqual([{ one: 1 }]);
});

test(
  "every connection of the pool works again after it was cut in the middle of anything",
  { timeout: 60_000 },
  async () => {
    let isCutting = true;
    let cuts = 0;
    const worker = async (turn: number): Promise<void> => {
      while (isCutting) {
        const work =
          turn % 2 === 0
            ? inTransaction(
                pool,
                async (tx) => void (await Promise.all([tx`select ${turn}::int`, tx`select pg_sleep(0.001)`])),
              )
            : pool`select ${"x".repeat(turn * 300)}::text`;
        await work.catch((error: unknown) => {
          if (!isDatabaseAway(error)) throw error;
          cuts += 1;
        });
      }
    };
    const workers = Array.from({ length: 2 * CONNECTIONS }, async (_, turn) => await worker(turn));
    for (let round = 0; round < 20; round += 1) await cutAll();
    isCutting = false;
    await Promise.all(workers);
    expect(cuts).toBeGreaterThan(0);
    const all = await Promise.all(
      Array.from(
        { length: CONNECTIONS },
        async () => await pool<{ pid: number }[]>`select pg_backend_pid() as pid, pg_sleep(0.2)`,
      ),
    );
    expect(new Set(all.map(([row]) => row?.pid)).size).toBe(CONNECTIONS);
  },
);
