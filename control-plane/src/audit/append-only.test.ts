import { randomBytes } from "node:crypto";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";

describe("what happened cannot be changed or deleted", () => {
  const today = new Date().toISOString().slice(0, 10).replaceAll("-", "");
  const DAYS = [`events_${today}`, `event_positions_${today}`];
  const TABLES = ["audit_log", "audit_chain", "audit_checkpoints", "events", "event_positions", ...DAYS];
  const statements = TABLES.flatMap((table) => {
    const column = /^(?:audit_c|event_p)/.test(table) ? "position" : "at";
    return [
      `update ${table} set ${column} = ${column}`,
      `delete from ${table}`,
      `truncate ${table}`,
      `truncate ${table} cascade`,
      `with gone as (delete from ${table} returning 1) select count(*) from gone`,
      `merge into ${table} t using (select 1) s on true when matched then delete`,
      `explain analyze delete from ${table}`,
    ];
  });

  let database: TestDatabase;
  beforeEach(async () => {
    database = await createTestDatabase();
    await database.sql`insert into audit_log (actor, action, target_id, outcome) values ('a', 'b', 'kept', 'succeeded')`;
    await database.sql`insert into events (id, aggregate_id, aggregate_version, topic, body) values ('evt', 'a', 1, 't', '{}')`;
    await database.sql`insert into event_positions (position, placed_at, event_seq, event_at) select 1, at, seq, at from events`;
    await database.sql`insert into audit_chain values (1, 1, sha256('kept'))`;
    await database.sql`insert into audit_checkpoints values (1, 'kept')`;
  });
  afterEach(async () => await database.close());

  /** Each in a transaction of its own that is rolled back, after `before`. */
  async function expectRefusals(before: readonly string[]): Promise<void> {
    for (const statement of [...statements, ...upserts()]) {
      const attempt = database.sql.begin(async (tx) => {
        for (const step of before) await tx.unsafe(step);
        await tx.unsafe(statement);
      });
      await expect(attempt, statement).rejects.toThrow(/append-only|cannot truncate a table referenced/);
    }
  }

  function upserts(): string[] {
    return [
      "insert into audit_chain select * from audit_chain on conflict (position) do update set hash = excluded.hash",
      "insert into audit_checkpoints select * from audit_checkpoints on conflict (position) do update set jws = 'x'",
      `insert into events_${today} select * from events on conflict (id) do update set body = '{}'`,
      `insert into event_positions_${today} select * from event_positions on conflict (position) do update set project_id = 'x'`,
    ];
  }

  test("by the superuser", async () => await expectRefusals([]));

  test("where replication silences ordinary triggers", async () => {
    await expectRefusals(["set local session_replication_role = replica"]);
  });

  test("by a role with every right, and by one that owns the tables", async () => {
    const role = `rewriter_${randomBytes(4).toString("hex")}`;
    await database.sql.unsafe(`create role ${role}`);
    await database.sql.unsafe(`grant all on all tables in schema public to ${role}`);
    await expectRefusals([`set local role ${role}`]);
    const owned = TABLES.map((table) => `alter table ${table} owner to ${role}`);
    await expectRefusals([`grant create on schema public to ${role}`, ...owned, `set local role ${role}`]);
    await database.sql.unsafe(`drop owned by ${role}`);
    await database.sql.unsafe(`drop role ${role}`);
  });

  test("by whoever writes the chain a second time", async () => {
    const { sql } = database;
    await expect(sql`insert into audit_chain select 1, audit_seq, hash from audit_chain`).rejects.toThrow(
      /duplicate key/,
    );
    await expect(sql`insert into audit_chain select 2, audit_seq, hash from audit_chain`).rejects.toThrow(
      /duplicate key/,
    );
  });
});
