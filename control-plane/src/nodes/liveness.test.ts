import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { startLiveness } from "./liveness.ts";
import { insertLiveness, updateLiveness } from "./store.ts";
import { startTestPlane, type TestPlane } from "./test-plane.ts";

const log = pino({ level: "silent" });
let plane: TestPlane;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());

async function readSeen(nodeId: string): Promise<unknown> {
  const [row] =
    await plane.sql`select agent_instance as "agentInstance", trust_version as "trustVersion", acked_rev::int as "ackedRevision" from node_liveness where node_id = ${nodeId}`;
  return row;
}

async function isOnline(nodeId: string): Promise<unknown> {
  return (await plane.asOperator("GET", `/api/ops/v1/nodes/${nodeId}`)).body["online"];
}

/** A clock whose sleeps end when the test says so. */
function makeSteppedClock(): Clock & { step(): void } {
  let wake: () => void = () => undefined;
  return {
    ...systemClock,
    sleep: async (_ms, signal) => {
      await new Promise<void>((resolve, reject) => {
        wake = resolve;
        signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      });
    },
    step: () => wake(),
  };
}

test("a new node is online at once; later heartbeats are written together, the last on close", async () => {
  const { nodeId } = (await plane.makeNode()).answer;
  const liveness = startLiveness({ sql: plane.sql, clock: makeSteppedClock(), log, replicaId: "test" });
  expect(await isOnline(nodeId)).toBe(false);
  await liveness.noteSeen({ nodeId, agentInstance: "a", ackedRevision: 1, trustVersion: 1 });
  expect(await isOnline(nodeId)).toBe(true);
  await liveness.noteSeen({ nodeId, agentInstance: "a", ackedRevision: 2, trustVersion: 1 });
  expect(await readSeen(nodeId)).toEqual({ agentInstance: "a", ackedRevision: 1, trustVersion: 1 });
  await liveness.close();
  expect(await readSeen(nodeId)).toEqual({ agentInstance: "a", ackedRevision: 2, trustVersion: 1 });
});

test("a node is offline 45 s after it was heard, by the database's clock", async () => {
  const { nodeId } = (await plane.makeNode()).answer;
  const liveness = startLiveness({ sql: plane.sql, clock: makeSteppedClock(), log, replicaId: "test" });
  await liveness.noteSeen({ nodeId, agentInstance: "a", ackedRevision: 1, trustVersion: 1 });
  await liveness.close();
  await plane.sql`update node_liveness set last_seen_at = now() - interval '44 seconds' where node_id = ${nodeId}`;
  expect(await isOnline(nodeId)).toBe(true);
  await plane.sql`update node_liveness set last_seen_at = now() - interval '46 seconds' where node_id = ${nodeId}`;
  expect(await isOnline(nodeId)).toBe(false);
});

test("a round that fails is not the last one", async () => {
  const { nodeId } = (await plane.makeNode()).answer;
  const clock = makeSteppedClock();
  const errors: unknown[] = [];
  const noted = { ...log, error: (fields: unknown) => errors.push(fields) } as unknown as typeof log;
  const liveness = startLiveness({ sql: plane.sql, clock, log: noted, replicaId: "test" });
  await liveness.noteSeen({ nodeId, agentInstance: "a", ackedRevision: 1, trustVersion: 1 });
  await liveness.noteSeen({ nodeId, agentInstance: "a", ackedRevision: 2, trustVersion: 1 });
  await plane.sql`alter table node_liveness rename to away`;
  clock.step();
  await expect.poll(() => errors.length).toBe(1);
  await plane.sql`alter table away rename to node_liveness`;
  clock.step();
  await expect
    .poll(async () => await readSeen(nodeId))
    .toEqual({ agentInstance: "a", ackedRevision: 2, trustVersion: 1 });
  await liveness.close();
});

test("replicas that write the same nodes in other orders do not deadlock", async () => {
  const nodes = await Promise.all(Array.from({ length: 20 }, async () => (await plane.makeNode()).answer.nodeId));
  const rows = nodes.map((nodeId) => ({ nodeId, agentInstance: "a", ackedRevision: 1, trustVersion: 1 }));
  const orders = Array.from({ length: 100 }, (_, index) => (index % 2 === 0 ? rows : rows.toReversed()));
  await Promise.all(orders.map(async (order) => await insertLiveness(plane.sql, order)));
  expect(await readSeen(nodes[0] ?? "")).toBeDefined();
});

async function silentFor(nodeId: string): Promise<number> {
  const [row] = await plane.sql<{ seconds: number }[]>`
    select extract(epoch from now() - last_seen_at)::float8 as seconds from node_liveness where node_id = ${nodeId}
  `;
  return row?.seconds ?? Number.NaN;
}

test("what is written is when a node was heard, however late that is written", async () => {
  const { nodeId } = (await plane.makeNode()).answer;
  let nowMs = 0;
  const clock = { ...makeSteppedClock(), monotonicMs: () => nowMs };
  const liveness = startLiveness({ sql: plane.sql, clock, log, replicaId: "test" });
  const seen = { nodeId, agentInstance: "a", ackedRevision: 1, trustVersion: 1 };
  await liveness.noteSeen(seen);
  await plane.sql`update node_liveness set last_seen_at = now() - interval '1 hour' where node_id = ${nodeId}`;
  nowMs = 20_000;
  const hangUp = liveness.noteWaiting(seen);
  nowMs = 25_000;
  hangUp();
  nowMs = 37_000;
  await liveness.close();
  expect(await silentFor(nodeId)).toBeCloseTo(12, 0);
});

test("a node that waits on is written every ten seconds, and at once when its line is gone", async () => {
  const { nodeId } = (await plane.makeNode()).answer;
  let nowMs = 0;
  const clock = { ...makeSteppedClock(), monotonicMs: () => nowMs };
  const liveness = startLiveness({ sql: plane.sql, clock, log, replicaId: "round" });
  const rounds = async (): Promise<number> => {
    const [row] = await plane.sql<{ atMs: number }[]>`
      select (extract(epoch from flushed_at) * 1000)::float8 as "atMs" from liveness_flushes where replica_id = 'round'
    `;
    return row?.atMs ?? 0;
  };
  const roundAt = async (ms: number): Promise<void> => {
    nowMs = ms;
    const before = await rounds();
    clock.step();
    await expect.poll(rounds).toBeGreaterThan(before);
  };
  const seen = { nodeId, agentInstance: "a", ackedRevision: 1, trustVersion: 1 };
  await liveness.noteSeen(seen);
  const hangUp = liveness.noteWaiting(seen);
  await plane.sql`update node_liveness set last_seen_at = now() - interval '1 hour' where node_id = ${nodeId}`;
  await roundAt(9000);
  expect(await silentFor(nodeId)).toBeGreaterThan(3000);
  await roundAt(11_000);
  expect(await silentFor(nodeId)).toBeLessThan(60);
  await plane.sql`update node_liveness set last_seen_at = now() - interval '1 hour' where node_id = ${nodeId}`;
  await roundAt(12_000);
  expect(await silentFor(nodeId)).toBeGreaterThan(3000);
  hangUp();
  await roundAt(13_000);
  expect(await silentFor(nodeId)).toBeLessThan(60);
  await liveness.close();
});

test("a replica that a node has left does not make it older than the next one has heard it", async () => {
  const { nodeId } = (await plane.makeNode()).answer;
  const seen = { nodeId, agentInstance: "a", ackedRevision: 1, trustVersion: 1 };
  await insertLiveness(plane.sql, [seen]);
  expect(await updateLiveness(plane.sql, [{ nodeId, ackedRevision: 1, agoMs: 5000 }])).toEqual(new Set());
  expect(await silentFor(nodeId)).toBeLessThan(4);
  await plane.sql`update node_liveness set last_seen_at = now() - interval '1 hour' where node_id = ${nodeId}`;
  expect(await updateLiveness(plane.sql, [{ nodeId, ackedRevision: 1, agoMs: 5000 }])).toEqual(new Set([nodeId]));
});

test("a poll that waits is heard, but not one of the agent's earlier start", async () => {
  const { nodeId } = (await plane.makeNode()).answer;
  const liveness = startLiveness({ sql: plane.sql, clock: makeSteppedClock(), log, replicaId: "test" });
  const seen = { nodeId, agentInstance: "new", ackedRevision: 1, trustVersion: 1 };
  await liveness.noteSeen(seen);
  await plane.sql`update node_liveness set last_seen_at = now() - interval '1 hour' where node_id = ${nodeId}`;
  liveness.noteWaiting({ ...seen, agentInstance: "old" });
  await liveness.noteSeen(seen);
  liveness.noteWaiting({ ...seen, agentInstance: "old" });
  await liveness.close();
  expect(await isOnline(nodeId)).toBe(true);
  expect(await readSeen(nodeId)).toMatchObject({ agentInstance: "new" });
});
