import { systemClock } from "@hostler/shared/clock.ts";
import { LEASE_TTL_MS } from "@hostler/shared/node-protocol.ts";
import pino from "pino";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { createTestDatabase, type TestDatabase } from "../db/test-database.ts";
import type { Tx } from "../db/sql.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import { makeHandOver, type HandOver, type HandOverDeps, type Offer } from "./hand-over.ts";
import { insertReadyNode } from "./test-node.ts";

const NODE = { id: "node_1", keyThumbprint: "thumb", session: 3 };
let database: TestDatabase;
let woken: string[];
beforeAll(async () => {
  database = await createTestDatabase();
  await insertReadyNode(database.sql, NODE.id);
});
afterAll(async () => await database.close());
beforeEach(async () => {
  woken = [];
  await database.sql`delete from tasks`;
  await database.sql`update nodes set session = ${NODE.session}, session_confirmed = true`;
});

function open(overrides: Partial<HandOverDeps> = {}): HandOver {
  const wake = { wake: (topic: string) => woken.push(topic), wakeHere: (topic: string) => woken.push(`here ${topic}`) };
  return makeHandOver({
    sql: database.sql,
    clock: systemClock,
    log: pino({ level: "silent" }),
    wake: wake as never,
    pki: { signTask: async ({ jti, fence }) => await Promise.resolve(`${jti} under ${fence}`) },
    ...overrides,
  });
}

const offer = (handOver: HandOver, credit = 5): Offer => handOver.offer({ node: NODE, credit, poll: 7 });

/** A request that makes a task of that name; resolves with whether it was granted at once. */
async function make(
  handOver: HandOver,
  id: string,
  beforeCommit: () => Promise<void> | void = () => undefined,
): Promise<boolean> {
  return await handOver.inTransaction(async (tx, grant) => {
    await insertTask(tx, id);
    const isGranted = await grant(NODE.id);
    await beforeCommit();
    return isGranted;
  });
}

async function insertTask(tx: Tx, id: string): Promise<void> {
  await tx`
    insert into tasks (id, node_id, target_id, kind, state, priority, params, params_digest, expires_at)
    values (${id}, ${NODE.id}, ${id}, 'slice.vm_release', 'ready', 50, '{}', '', now() + interval '1 hour')
  `;
}

interface Shown {
  readonly state: string;
  readonly fence: string;
  readonly attempt: number;
  readonly isGranted: boolean;
  readonly poll: string | null;
}

async function shown(id: string): Promise<Shown | undefined> {
  const [row] = await database.sql<Shown[]>`
    select state, fence::text, attempt, grant_digest is not null as "isGranted", granted_poll::text as poll
    from tasks
    where id = ${id}
  `;
  return row;
}

test("a poll that waits is given what a request makes, once that is committed, with all else that waits for its node", async () => {
  const handOver = open();
  await make(handOver, "task_1");
  expect(await shown("task_1")).toMatchObject({ state: "ready", attempt: 0 });
  const poll = offer(handOver);
  expect(await make(handOver, "task_2", () => expect(woken).toEqual([]))).toBe(true);
  expect(woken).toEqual([`here ${nodeTopic(NODE.id)}`]);
  const given = await poll.end();
  const [first, second] = [await shown("task_1"), await shown("task_2")];
  expect(first).toMatchObject({ state: "leased", attempt: 1, isGranted: true, poll: "7" });
  expect(given?.tasks).toEqual([{ jws: `task_1 under ${first?.fence}` }, { jws: `task_2 under ${second?.fence}` }]);
  const [{ revision } = { revision: 0 }] = await database.sql<{ revision: number }[]>`
    select max(revision)::float8 as revision from tasks
  `;
  expect(given?.revision).toBe(revision);
});

test("one poll is given what one request makes: the next request finds nobody, nor does one without a poll", async () => {
  const handOver = open();
  const poll = offer(handOver, 1);
  await make(handOver, "task_1", async () => expect(await make(handOver, "task_2")).toBe(false));
  expect((await poll.end())?.tasks).toHaveLength(1);
  expect(await make(handOver, "task_3")).toBe(false);
  expect((await shown("task_2"))?.state).toBe("ready");
  offer(handOver).withdraw();
  expect(await make(handOver, "task_4")).toBe(false);
});

test("a poll that is woken for something else meanwhile waits for the commit, and gets nothing from a request that fails", async () => {
  const handOver = open();
  const lucky = offer(handOver);
  let given: ReturnType<Offer["end"]> | undefined;
  await make(handOver, "task_1", () => void (given = lucky.end()));
  expect((await given)?.tasks).toHaveLength(1);
  const unlucky = offer(handOver);
  await expect(
    make(handOver, "task_2", () => {
      given = unlucky.end();
      throw new Error("refused");
    }),
  ).rejects.toThrow("refused");
  expect(await given).toBeNull();
  expect(await shown("task_2")).toBeUndefined();
});

test("a lease counts from the grant, however long its transaction waited before: the node counts from its poll", async () => {
  const handOver = open();
  await handOver.inTransaction(async (tx, grant) => {
    await tx`select pg_sleep(0.5)`;
    offer(handOver);
    await insertTask(tx, "task_1");
    expect(await grant(NODE.id)).toBe(true);
  });
  const [lease] = await database.sql<{ seconds: number }[]>`
    select extract(epoch from lease_until - created_at)::float8 as seconds from tasks where id = 'task_1'
  `;
  expect(lease?.seconds).toBeGreaterThan(LEASE_TTL_MS / 1000 + 0.4);
});

test("a poll that went away before the commit costs its task nothing: it is free again at once", async () => {
  const handOver = open();
  const poll = offer(handOver);
  await make(handOver, "task_1", () => poll.withdraw());
  expect(await shown("task_1")).toMatchObject({ state: "ready", attempt: 1 });
  expect(woken).toEqual([nodeTopic(NODE.id)]);
  const next = offer(handOver);
  await make(handOver, "task_2");
  expect((await next.end())?.tasks).toHaveLength(2);
});

test("a commit whose answer was lost: nobody is given the task, and it is free again", async () => {
  const { sql } = database;
  let losses = 1;
  const begin = async (work: never): Promise<unknown> => {
    const result: unknown = await sql.begin(work);
    losses -= 1;
    if (losses >= 0) throw new Error("the connection was lost");
    return result;
  };
  const handOver = open({ sql: { begin } as never });
  const poll = offer(handOver);
  await expect(make(handOver, "task_1")).rejects.toThrow("the connection was lost");
  expect(await poll.end()).toBeNull();
  await expect.poll(async () => (await shown("task_1"))?.state).toBe("ready");
  await expect.poll(() => woken).toEqual([nodeTopic(NODE.id)]);
});

test("a poll of an earlier start of the agent is given nothing once a later one was heard of", async () => {
  const handOver = open();
  await database.sql`update nodes set session = ${NODE.session + 1}, session_confirmed = false`;
  const before = offer(handOver);
  expect(await make(handOver, "task_1")).toBe(true);
  expect((await before.end())?.tasks).toHaveLength(1);
  await database.sql`update nodes set session_confirmed = true`;
  const after = offer(handOver);
  expect(await make(handOver, "task_2")).toBe(false);
  expect(await after.end()).toBeNull();
  expect(await shown("task_2")).toMatchObject({ state: "ready", attempt: 0 });
});

test.each([
  ["refuses", async () => await Promise.reject(new Error("no"))],
  ["does not answer", async () => await new Promise<never>(() => undefined)],
])("a signer that %s keeps nobody from a slice: its task waits for a poll", async (_, signTask) => {
  const handOver = open({ pki: { signTask } });
  const poll = offer(handOver);
  expect(await make(handOver, "task_1")).toBe(false);
  expect(await poll.end()).toBeNull();
  expect(await shown("task_1")).toMatchObject({ state: "ready", isGranted: false });
});
