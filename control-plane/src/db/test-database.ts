import { randomBytes } from "node:crypto";
import { systemClock } from "@hostler/shared/clock.ts";
import { maintainPartitions } from "./partitions.ts";
import { openDriver, openPool } from "./pool.ts";
import type { Sql } from "./sql.ts";

export interface TestDatabase {
  readonly url: string;
  readonly sql: Sql;
  close(): Promise<void>;
}

/** A migrated database of its own on the PostgreSQL that the test run started (`test-global-setup.ts`). Close it in `afterAll`. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const serverUrl = process.env["HOSTLER_TEST_DATABASE_URL"];
  if (serverUrl === undefined)
    throw new Error(
      "HOSTLER_TEST_DATABASE_URL is not set: run the tests through vitest, whose global set-up starts PostgreSQL.",
    );
  const name = `test_${randomBytes(6).toString("hex")}`;
  await onServer(
    serverUrl,
    async (admin) => void (await admin.unsafe(`create database ${name} template hostler_template`)),
  );
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  const sql = openPool({ url: url.href, applicationName: "hostler test", connectionsMax: 10 });
  await maintainPartitions(sql, systemClock.now(), {});
  return {
    url: url.href,
    sql,
    close: async () => {
      await sql.end({ timeout: 2 });
      await onServer(serverUrl, async (admin) => void (await admin.unsafe(`drop database ${name} with (force)`)));
    },
  };
}

async function onServer(url: string, work: (admin: Sql) => Promise<void>): Promise<void> {
  const admin = openDriver(url, { max: 1, onnotice: () => undefined });
  try {
    await work(admin);
  } finally {
    await admin.end();
  }
}
