import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { migrate } from "./migrate.ts";
import { openPool } from "./pool.ts";
import { createTestDatabase, type TestDatabase } from "./test-database.ts";

let database: TestDatabase;
let folder: string;
beforeAll(async () => {
  database = await createTestDatabase();
  folder = await mkdtemp(join(tmpdir(), "hostler-migrations-"));
  await database.sql.unsafe("drop table migrations");
  await writeFile(join(folder, "0001_first.sql"), "create table first_thing (id int); select pg_sleep(0.05);");
});
afterAll(async () => {
  await database.close();
  await rm(folder, { recursive: true, force: true });
});

test("twenty processes that migrate at once apply each file once", async () => {
  const pools = Array.from({ length: 20 }, () =>
    openPool({ url: database.url, applicationName: "migrator", connectionsMax: 1 }),
  );
  const applied = await Promise.all(pools.map(async (sql) => await migrate(sql, folder)));
  await Promise.all(pools.map(async (sql) => await sql.end()));
  expect(applied.flat()).toEqual(["0001_first.sql"]);
});

test("a file that fails leaves nothing behind and can be mended", async () => {
  await writeFile(join(folder, "0002_second.sql"), "create table second_thing (id int); select 1/0;");
  await expect(migrate(database.sql, folder)).rejects.toThrow(/division by zero/);
  await writeFile(join(folder, "0002_second.sql"), "create table second_thing (id int);");
  expect(await migrate(database.sql, folder)).toEqual(["0002_second.sql"]);
});

test("an edited file and a database of a newer version are refused with what to do", async () => {
  await writeFile(join(folder, "0001_first.sql"), "create table first_thing (id bigint);");
  await expect(migrate(database.sql, folder)).rejects.toThrow(/0001_first.sql was edited.*Restore/);
  await writeFile(join(folder, "0001_first.sql"), "create table first_thing (id int); select pg_sleep(0.05);");
  await rm(join(folder, "0002_second.sql"));
  await expect(migrate(database.sql, folder)).rejects.toThrow(/0002_second.sql.*does not know/);
});
