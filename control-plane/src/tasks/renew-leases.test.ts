import { afterAll, beforeAll, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";
import { renewLeases } from "./store.ts";

let database: TestDatabase;
beforeAll(async () => void (database = await createTestDatabase()));
afterAll(async () => await database.close());

test("a renewal of several leases and a batch that holds their tasks never wait for each other in a circle", async () => {
  const { sql } = database;
  const ids = ["task_1", "task_2"];
  await sql`
    insert into tasks (id, node_id, target_id, kind, state, params, params_digest, fence, lease_until, expires_at)
    select id, 'node_1', id, 'slice.vm_release', 'leased', '{}', '', 1, now() + interval '1 second', now() + interval '1 hour'
    from unnest(${ids.toReversed()}::text[]) as given (id)
  `;
  const isWaiting = async (): Promise<boolean> =>
    (
      await sql`select from pg_stat_activity where wait_event_type = 'Lock' and query like '%with ours as%' and pid <> pg_backend_pid()`
    ).length === 1;
  let renewal: ReturnType<typeof renewLeases> | undefined;
  await sql.begin(async (batch) => {
    await batch`select from tasks where id = 'task_1' for update`;
    const held = ids.toReversed().map((taskId) => ({ taskId, nodeId: "node_1", fence: "1" }));
    renewal = renewLeases(sql, held, 30_000);
    renewal.catch(() => "looked at below");
    await expect.poll(isWaiting, { timeout: 5000 }).toBe(true);
    await batch`select from tasks where id = 'task_2' for update`;
  });
  expect((await renewal)?.map(({ taskId }) => taskId).toSorted()).toEqual(ids);
});
