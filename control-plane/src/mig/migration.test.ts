import { copyFile, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EIGHT } from "@hostler/shared/mig/test-tables.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { freeSlotsOf } from "../allocations/free-slots.ts";
import { migrate, MIGRATIONS_DIR } from "../db/migrate.ts";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";
import { inTransaction } from "../db/transaction.ts";
import { settleNode } from "./divided-cards.ts";

let database: TestDatabase;
let before: string;
beforeAll(async () => {
  database = await createTestDatabase();
  before = await mkdtemp(join(tmpdir(), "hostler-migrations-"));
  for (const name of await readdir(MIGRATIONS_DIR))
    if (name < "0016") await copyFile(join(MIGRATIONS_DIR, name), join(before, name));
  await database.sql.unsafe("drop schema public cascade; create schema public");
});
afterAll(async () => {
  await database.close();
  await rm(before, { recursive: true, force: true });
});

test("a database with slices that run is migrated, and they give back what they have", async () => {
  const { sql } = database;
  await migrate(sql, before);
  await sql.begin(async (tx) => {
    await tx.unsafe(`
      insert into organizations (id, name) values ('org', 'o');
      insert into projects (id, organization_id, name) values ('prj', 'org', 'p');
      insert into images (id, name, sha256, size_bytes, format) values ('img', 'i', '', 1, 'raw');
      insert into operations (id, kind, target_id, state) values ('op', 'k', 'alc', 'succeeded');
      insert into nodes (id, name, state, protocol_version) values ('node', 'n', 'ready', 5);
      insert into allocations (id, project_id, name, state, node_id, driver, image_id, vcpus, memory_mib, disk_gib, operation_id, gpus)
      values ('alc', 'prj', 'a', 'active', 'node', 'mock', 'img', 1, 1, 1, 'op', '[{"uuid": "GPU-0", "model": "m", "kind": "h100"}]');
      insert into gpu_slots (node_id, gpu_uuid, gpu_kind, gpu, state, allocation_id, reason)
      values ('node', 'GPU-0', 'h100', '{"uuid": "GPU-0", "index": 0, "kind": "h100"}', 'owned', 'alc', null),
        ('node', 'GPU-1', 'h100', '{"uuid": "GPU-1", "index": 1, "kind": "h100"}', 'available', null, null),
        ('node', 'GPU-2', 'h100', '{"uuid": "GPU-2", "index": 2, "kind": "h100"}', 'quarantined', null, 'gpu: XID 79');
      insert into events (id, aggregate_id, aggregate_version, topic, body) values ('e1', 'alc', 1, 't', '{}'), ('e2', 'node', 1, 't', '{}');
      insert into audit_log (actor, action, target_id, target_version, outcome) values ('a', 'b', 'alc', 1, 'succeeded'), ('a', 'b', 'node', 1, 'succeeded');
    `);
  });
  const slots = async () =>
    (await sql`select gpu_uuid as uuid, state from gpu_slots order by gpu_uuid`).map(
      (row) => `${row["uuid"]} ${row["state"]}`,
    );
  const shown = await slots();
  expect(await migrate(sql)).toContain("0016_mig.sql");
  expect(await slots()).toEqual(shown);
  // Its host reports the card in parts while the slice has all of it.
  await sql`update gpu_slots set gpu = gpu || ${sql.json({ mig: EIGHT } as never)} where gpu_uuid = 'GPU-0'`;
  await inTransaction(sql, async (tx) => await settleNode(tx, "node"));
  expect(await slots()).toEqual(shown);
  const gpus = [{ uuid: "GPU-0", model: "m", kind: "h100" }];
  const freed = { id: "alc", nodeId: "node", gpus, quarantineReason: null, gaps: {} };
  await inTransaction(sql, async (tx) => await freeSlotsOf(tx, [freed]));
  expect(await slots()).toEqual(["GPU-0 divided", "GPU-1 available", "GPU-2 quarantined"]);
  const [largest] = await sql`select gpu_kind as kind, free from mig_capacity order by size desc limit 1`;
  expect(largest).toEqual({ kind: "h100-7g.64gb", free: 1 });
});
