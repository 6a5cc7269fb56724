import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "@hostler/shared/errors.ts";
import type { Sql, Tx } from "./sql.ts";

export const MIGRATIONS_DIR = join(import.meta.dirname, "../../migrations");
/** Any number that nothing else locks. */
const LOCK_KEY = 4_107_823_390;

interface Migration {
  readonly number: number;
  readonly name: string;
  readonly sql: string;
  readonly digest: string;
}

/**
 * Brings the schema up to date, forward only. Any number of processes may call it at once: one applies, the others wait
 * and find nothing to do. Refuses a database that is newer than this program or whose applied files were edited.
 */
export async function migrate(sql: Sql, directory: string = MIGRATIONS_DIR): Promise<readonly string[]> {
  const migrations = await readMigrations(directory);
  const { applied } = await sql.begin(async (tx) => {
    await tx`select pg_advisory_xact_lock(${LOCK_KEY})`;
    await tx`select set_config(name, '0', true) from pg_settings where name in ('statement_timeout', 'transaction_timeout')`;
    await tx`create table if not exists migrations (number int primary key, name text not null, digest text not null, applied_at timestamptz not null default now())`;
    const done = await tx<
      { number: number; name: string; digest: string }[]
    >`select number, name, digest from migrations order by number`;
    const pending = pendingOf(migrations, done);
    for (const migration of pending) await apply(tx, migration);
    return { applied: pending.map((migration) => migration.name) };
  });
  return applied;
}

/** What is left to do; throws when history does not match. Pure. */
export function pendingOf(
  migrations: readonly Migration[],
  done: readonly Pick<Migration, "number" | "name" | "digest">[],
): Migration[] {
  for (const row of done) {
    const known = migrations.find((migration) => migration.number === row.number);
    if (known === undefined) {
      throw new AppError("conflict", {
        detail: `The database has migration ${row.name}, which this version does not know. Run the version that made it, or a newer one.`,
      });
    }
    if (known.digest !== row.digest) {
      throw new AppError("conflict", {
        detail: `Migration ${row.name} was edited after it was applied. Restore the file; changes go into a new one.`,
      });
    }
  }
  return migrations.filter((migration) => !done.some((row) => row.number === migration.number));
}

async function apply(tx: Tx, migration: Migration): Promise<void> {
  // The row comes first: should the lock ever fail, the primary key stops the second process.
  await tx`insert into migrations (number, name, digest) values (${migration.number}, ${migration.name}, ${migration.digest})`;
  await tx.unsafe(migration.sql);
}

async function readMigrations(directory: string): Promise<Migration[]> {
  const names = (await readdir(directory)).filter((name) => /^\d{4}_[a-z0-9_]+\.sql$/.test(name)).toSorted();
  return await Promise.all(
    names.map(async (name) => {
      const sql = await readFile(join(directory, name), "utf8");
      return { number: Number(name.slice(0, 4)), name, sql, digest: createHash("sha256").update(sql).digest("hex") };
    }),
  );
}
