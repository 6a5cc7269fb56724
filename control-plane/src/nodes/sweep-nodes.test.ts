import { systemClock } from "@hostler/shared/clock.ts";
import { pino } from "pino";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import type { WakeBus } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import { noteFlush } from "./lifecycle-store.ts";
import { startLiveness } from "./liveness.ts";
import { quarantineNode } from "./quarantine-node.ts";
import { sweepNodes } from "./sweep-nodes.ts";
import { startTestPlane, type TestPlane } from "./test-plane.ts";

const log = pino({ level: "silent" });
const wake = { wake: () => undefined } as unknown as WakeBus;
let plane: TestPlane;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());
/** Each test has the fleet to itself. */
beforeEach(async () => {
  await plane.sql`delete from liveness_flushes`;
  await plane.sql`update node_incidents set closed_at = now() where closed_at is null`;
  const living = await plane.sql<{ id: string }[]>`select id from nodes where state not in ('retired', 'revoked')`;
  for (const { id } of living) await act(id, "revoke");
});

const sweep = async () => await sweepNodes({ sql: plane.sql, clock: systemClock, wake, log });

async function act(nodeId: string, action: string, body?: unknown): Promise<Record<string, unknown>> {
  const answer = await plane.asOperator("POST", `/api/ops/v1/nodes/${nodeId}/${action}`, body);
  return answer.body;
}

async function show(nodeId: string): Promise<Record<string, unknown>> {
  return (await plane.asOperator("GET", `/api/ops/v1/nodes/${nodeId}`)).body;
}

/** Ready nodes that were just heard. */
async function makeFleet(size: number): Promise<string[]> {
  const ids: string[] = [];
  for (let index = 0; index < size; index += 1) {
    const { nodeId } = (await plane.makeNode()).answer;
    await plane.sql.begin(async (tx) => {
      await tx`update nodes set state = 'ready', version = version + 1, state_since = now() where id = ${nodeId}`;
      await tx`insert into events (id, aggregate_id, aggregate_version, topic, body) values (${`evt_${nodeId}`}, ${nodeId}, 2, 'node.ready', '{}')`;
      await tx`insert into audit_log (actor, action, target_id, target_version, outcome) values ('test', 'node.ready', ${nodeId}, 2, 'succeeded')`;
    });
    await plane.sql`insert into node_liveness (node_id, last_seen_at, agent_instance, acked_rev) values (${nodeId}, now(), 'a', 0)`;
    ids.push(nodeId);
  }
  return ids;
}

async function silence(nodeIds: readonly string[], seconds = 31): Promise<void> {
  await plane.sql`update node_liveness set last_seen_at = now() - make_interval(secs => ${seconds}) where node_id = any(${[...nodeIds]})`;
}

/** We have been listening for long. */
async function listen(replica = "test"): Promise<void> {
  await noteFlush(plane.sql, replica);
  await plane.sql`update liveness_flushes set steady_since = now() - interval '1 hour' where replica_id = ${replica}`;
}

/** Every state that the node had, as event and audit row tell it. */
async function history(nodeId: string): Promise<{ events: string[]; audit: string[] }> {
  const events = await plane.sql<
    { topic: string }[]
  >`select topic from events where aggregate_id = ${nodeId} order by aggregate_version`;
  const audit = await plane.sql<
    { action: string }[]
  >`select action from audit_log where target_id = ${nodeId} and target_version is not null order by target_version`;
  return { events: events.map((row) => row.topic), audit: audit.map((row) => row.action) };
}

test("a node that falls silent goes down and comes back as what it was, with its reason, each change recorded once", async () => {
  const [a = "", b = ""] = await makeFleet(2);
  await act(b, "cordon", { reason: "a disk is to be changed" });
  await listen();
  await silence([a, b]);
  expect(await sweep()).toMatchObject({ down: 2, brake: null });
  expect(await show(a)).toMatchObject({ state: "down", reason: "not heard for 31 s" });
  expect(await sweep()).toMatchObject({ down: 0, back: 0 });

  await plane.sql`update node_liveness set last_seen_at = now() where node_id in (${a}, ${b})`;
  expect(await sweep()).toMatchObject({ back: 0 });
  await plane.sql`update nodes set down_at = down_at - interval '11 seconds' where id in (${a}, ${b})`;
  expect(await sweep()).toMatchObject({ back: 2 });
  expect(await show(a)).toMatchObject({ state: "ready", reason: null });
  expect(await show(b)).toMatchObject({ state: "cordoned", reason: "a disk is to be changed" });
  const expected = ["node.enrolled", "node.ready", "node.down", "node.ready"];
  expect(await history(a)).toEqual({ events: expected, audit: expected });
});

test("nobody goes down within a minute of a start, or of an outage of ours, or while no replica listens", async () => {
  const nodes = await makeFleet(2);
  await silence(nodes, 600);
  expect(await sweep()).toMatchObject({ down: 0, isGrace: true });
  await noteFlush(plane.sql, "test");
  expect(await sweep()).toMatchObject({ down: 0, isGrace: true });
  await plane.sql`update liveness_flushes set steady_since = now() - interval '59 seconds'`;
  expect(await sweep()).toMatchObject({ down: 0, isGrace: true });

  await listen();
  await plane.sql`update liveness_flushes set flushed_at = now() - interval '11 seconds'`;
  expect(await sweep()).toMatchObject({ down: 0, isGrace: true });
  await noteFlush(plane.sql, "test");
  expect(await sweep()).toMatchObject({ down: 0, isGrace: true });
  await plane.sql`update liveness_flushes set steady_since = now() - interval '61 seconds'`;
  expect(await sweep()).toMatchObject({ down: 2, isGrace: false });
});

test("a replica that cannot write keeps the nodes up that only it may hear, for a minute and no longer", async () => {
  const nodes = await makeFleet(1);
  await listen("one");
  await listen("two");
  await silence(nodes);
  await plane.sql`update liveness_flushes set flushed_at = now() - interval '64 seconds' where replica_id = 'two'`;
  expect(await sweep()).toMatchObject({ down: 0, isGrace: true });
  await plane.sql`update liveness_flushes set flushed_at = now() - interval '66 seconds' where replica_id = 'two'`;
  expect(await sweep()).toMatchObject({ down: 1 });
});

test("heartbeats that cannot be written let nobody go down", async () => {
  const [a = ""] = await makeFleet(1);
  let step: () => void = () => undefined;
  const clock = {
    ...systemClock,
    sleep: async (_ms: number, signal: AbortSignal) =>
      await new Promise<void>((resolve, reject) => {
        step = resolve;
        signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      }),
  };
  const errors: unknown[] = [];
  const noted = { ...log, error: (fields: unknown) => errors.push(fields) } as unknown as typeof log;
  const liveness = startLiveness({ sql: plane.sql, clock, log: noted, replicaId: "test" });
  await listen();
  const flushedAt = async () => await plane.sql`select flushed_at from liveness_flushes`;
  const before = await flushedAt();
  await liveness.noteSeen({ nodeId: a, agentInstance: "a", ackedRevision: 1, trustVersion: 1 });
  await liveness.noteSeen({ nodeId: a, agentInstance: "a", ackedRevision: 2, trustVersion: 1 });
  await plane.sql`alter table node_liveness rename to away`;
  step();
  await expect.poll(() => errors.length).toBe(1);
  expect(await flushedAt()).toEqual(before);
  await plane.sql`alter table away rename to node_liveness`;
  await plane.sql`update liveness_flushes set flushed_at = now() - interval '11 seconds'`;
  await silence([a]);
  expect(await sweep()).toMatchObject({ down: 0, isGrace: true });
  await liveness.close();
});

test("too many at once: none goes down, an incident is raised once and closed once, and the metric counts it", async () => {
  const nodes = await makeFleet(4);
  await listen();
  await silence(nodes.slice(0, 3));
  for (let round = 0; round < 3; round += 1)
    expect(await sweep()).toMatchObject({ down: 0, brake: { silent: 3, nodes: 4 } });
  const [incident] = await plane.sql<{ id: string }[]>`select id from node_incidents where closed_at is null`;
  expect(await history(incident?.id ?? "")).toEqual({
    events: ["incident.mass_silence_began"],
    audit: ["incident.mass_silence_began"],
  });
  await plane.sql`update node_liveness set last_seen_at = now() where node_id = ${nodes[0] ?? ""}`;
  expect(await sweep()).toMatchObject({ down: 2, brake: null });
  expect((await history(incident?.id ?? "")).events).toEqual([
    "incident.mass_silence_began",
    "incident.mass_silence_ended",
  ]);
});

test("a zone is a failure domain of its own", async () => {
  const nodes = await makeFleet(6);
  for (const nodeId of nodes.slice(0, 3)) await act(nodeId, "labels", { labels: { zone: "a" } });
  expect(await show(nodes[0] ?? "")).toMatchObject({ labels: { zone: "a" } });
  await listen();
  await silence(nodes.slice(0, 3));
  expect(await sweep()).toMatchObject({ down: 0, brake: { zone: "a", silent: 3, nodes: 3 } });
  await act(nodes[0] ?? "", "labels", { labels: { zone: null } });
  expect(await show(nodes[0] ?? "")).toMatchObject({ labels: {} });
  expect(await sweep()).toMatchObject({ down: 3, brake: null });
});

test("one replica judges at a time, and replicas that race change each node once", async () => {
  const [a = ""] = await makeFleet(1);
  await listen();
  await silence([a]);
  const outcomes = await Promise.all(Array.from({ length: 5 }, sweep));
  expect(outcomes.filter((outcome) => outcome?.down === 1)).toHaveLength(1);
  expect((await history(a)).events).toEqual(["node.enrolled", "node.ready", "node.down"]);
});

test("an empty node that is drained ends cordoned; uncordon calls a drain off", async () => {
  const [a = "", b = ""] = await makeFleet(2);
  expect(await act(a, "drain", { policy: "wait", reason: "moves to another rack" })).toMatchObject({
    state: "draining",
    reason: "moves to another rack",
    drain: { policy: "wait", stopsAt: null },
    allocationsLeft: 0,
  });
  await act(b, "drain", { policy: "stop", noticeSeconds: 600 });
  expect(await act(b, "uncordon")).toMatchObject({ state: "ready", drain: null });
  expect(await sweep()).toMatchObject({ drained: 1 });
  expect(await show(a)).toMatchObject({ state: "cordoned", reason: "drained", drain: null });
});

test("a fault of the host quarantines it once; an operator lets it out to cordoned", async () => {
  const [a = ""] = await makeFleet(1);
  const fault = { nodeId: a, taskId: "task", message: "the disk is read-only", requestId: "r" };
  for (let time = 0; time < 2; time += 1)
    await inTransaction(plane.sql, async (tx) => await quarantineNode(tx, systemClock, fault));
  expect(await show(a)).toMatchObject({ state: "quarantined", reason: "host: the disk is read-only" });
  expect((await plane.asOperator("POST", `/api/ops/v1/nodes/${a}/uncordon`)).status).toBe(409);
  expect(await act(a, "cordon")).toMatchObject({ state: "cordoned" });
  expect((await history(a)).events).toEqual(["node.enrolled", "node.ready", "node.quarantined", "node.cordoned"]);
});

test("tasks that blame one host after the other take two of a small fleet and no more", async () => {
  const nodes = await makeFleet(4);
  for (const nodeId of nodes) {
    const fault = { nodeId, taskId: "task", message: "the disk is full", requestId: "r" };
    await inTransaction(plane.sql, async (tx) => await quarantineNode(tx, systemClock, fault));
  }
  const states = await Promise.all(nodes.map(async (nodeId) => (await show(nodeId))["state"]));
  expect(states).toEqual(["quarantined", "quarantined", "ready", "ready"]);
  const withheld =
    await plane.sql`select from audit_log where action = 'node.quarantine_withheld' and outcome = 'refused'`;
  expect(withheld).toHaveLength(2);
});

test("a drain goes on after its host was down", async () => {
  const [a = ""] = await makeFleet(1);
  await act(a, "drain", { policy: "stop", noticeSeconds: 600, reason: "new disks" });
  await listen();
  await silence([a]);
  expect(await sweep()).toMatchObject({ down: 1, drained: 0 });
  expect(await show(a)).toMatchObject({ state: "down", drain: { policy: "stop" } });
  await plane.sql`update node_liveness set last_seen_at = now() where node_id = ${a}`;
  await plane.sql`update nodes set down_at = down_at - interval '11 seconds' where id = ${a}`;
  expect(await sweep()).toMatchObject({ back: 1, drained: 1 });
  const topics = ["draining", "down", "draining", "cordoned"].map((state) => `node.${state}`);
  expect((await history(a)).events.slice(2)).toEqual(topics);
});

test("a retired node is refused and stays retired; a ready one is not retired", async () => {
  const [a = ""] = await makeFleet(1);
  expect((await plane.asOperator("POST", `/api/ops/v1/nodes/${a}/retire`)).status).toBe(409);
  await act(a, "cordon");
  expect(await act(a, "retire", { reason: "sold" })).toMatchObject({ state: "retired", reason: "sold" });
  const certificates = await plane.sql<{ state: string }[]>`select state from node_certificates where node_id = ${a}`;
  expect(certificates.map((row) => row.state)).toEqual(["revoked"]);
  for (const action of ["cordon", "uncordon", "drain", "quarantine", "freeze", "revoke"])
    expect((await plane.asOperator("POST", `/api/ops/v1/nodes/${a}/${action}`, {})).status).toBe(409);
});
