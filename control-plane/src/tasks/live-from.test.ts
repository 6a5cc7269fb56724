import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import type { Queryable } from "../db/sql.ts";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";
import { claimTasks } from "./grant-store.ts";
import { moveToHistory, type EndedTask } from "./history-store.ts";
import { lockForgottenLeases, readProgressOfNodes } from "./store.ts";
import { insertReadyNode } from "./test-node.ts";

const NODE = "node_1";
const OTHER = "node_2";
let database: TestDatabase;
beforeAll(async () => {
  database = await createTestDatabase();
  await insertReadyNode(database.sql, NODE);
});
afterAll(async () => await database.close());
beforeEach(async () => void (await database.sql`delete from tasks`));

async function enqueue(db: Queryable, id: string, priority: number, nodeId = NODE): Promise<void> {
  await db`
    insert into tasks (id, node_id, target_id, kind, state, priority, params, params_digest, expires_at)
    values (${id}, ${nodeId}, ${id}, 'slice.vm_release', 'ready', ${priority}, '{}', '', now() + interval '1 hour')
  `;
}

async function claim(limit: number, nodeId = NODE): Promise<string[]> {
  const claimed = await claimTasks(database.sql, [{ nodeId, limit, poll: null }], { leaseMs: 30_000 });
  return claimed.map(({ id }) => id).toSorted();
}

async function end(...taskIds: readonly string[]): Promise<void> {
  const ended = taskIds.map((taskId): EndedTask => ({
    taskId,
    state: "succeeded",
    outcome: null,
    resultJws: null,
    deadReason: null,
  }));
  await database.sql.begin(async (tx) => await moveToHistory(tx, ended));
}

async function markOf(nodeId = NODE): Promise<number> {
  const [row] = await database.sql<{ mark: string }[]>`
    select live_from as mark from node_sequences where node_id = ${nodeId}
  `;
  return Number(row?.mark);
}

test("the mark moves over what has ended and waits for what has not, whatever is claimed before it", async () => {
  const { sql } = database;
  await enqueue(sql, "task_first", 90);
  await enqueue(sql, "task_urgent", 10);
  expect(await claim(1)).toEqual(["task_urgent"]);
  const mark = await markOf();
  await end("task_urgent");
  await enqueue(sql, "task_urgent_2", 10);
  expect(await claim(1)).toEqual(["task_urgent_2"]);
  expect(await markOf()).toBe(mark);
  expect((await readProgressOfNodes(sql, [NODE])).get(NODE)?.ready).toBe(1);
  expect(await claim(1)).toEqual(["task_first"]);
  const forgotten = await sql.begin(
    async (tx) => await lockForgottenLeases(tx, { nodeId: NODE, stillHeld: ["task_first"] }),
  );
  expect(forgotten.map(({ id }) => id)).toEqual(["task_urgent_2"]);
  await end("task_first", "task_urgent_2");
  await enqueue(sql, "task_last", 10);
  expect(await claim(1)).toEqual(["task_last"]);
  expect(await markOf()).toBeGreaterThan(mark);
});

test("a task whose transaction began before that of another and ended after its claim is found", async () => {
  const { sql } = database;
  await sql.begin(async (slow) => {
    await enqueue(slow, "task_slow", 50);
    await enqueue(sql, "task_quick", 50);
    expect(await claim(5)).toEqual(["task_quick"]);
    await end("task_quick");
    await enqueue(sql, "task_quick_2", 50);
    expect(await claim(5)).toEqual(["task_quick_2"]);
  });
  expect(await claim(5)).toEqual(["task_slow"]);
});

test("a mark of another server counts for nothing, neither ahead of all transactions nor when they have passed it", async () => {
  const { sql } = database;
  await enqueue(sql, "task_before", 50, OTHER);
  expect(await claim(1, OTHER)).toEqual(["task_before"]);
  await end("task_before");
  const setMark = async (mark: string, epochs: number): Promise<void> => {
    await sql`
      update node_sequences
      set live_from = ${mark}::bigint, live_epoch = (select epoch from fence_epoch) + ${epochs}
      where node_id = ${OTHER}
    `;
  };
  await enqueue(sql, "task_low", 50, OTHER);
  await setMark("9000000000001", 0);
  expect(await claim(1, OTHER)).toEqual(["task_low"]);
  await end("task_low");

  await enqueue(sql, "task_lower", 50, OTHER);
  const [{ now } = { now: "" }] = await sql<{ now: string }[]>`select pg_current_xact_id()::text as now`;
  // The mark of this server's own would hide it: that is what makes the search short.
  await setMark(now, 0);
  expect(await claim(1, OTHER)).toEqual([]);
  await setMark(now, -1);
  expect(await claim(1, OTHER)).toEqual(["task_lower"]);
});
