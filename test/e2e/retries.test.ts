import { allocationOperationSchema, type Allocation } from "@hostler/shared/api/allocations.ts";
import { deadTaskSchema } from "@hostler/shared/api/tasks.ts";
import { newId } from "@hostler/shared/ids.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { sliceSpecSchema, type PhaseEvent } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readAllocation, requestRelease, requestSlice } from "../../deploy/demo/journey.ts";
import { startScriptedFleet, type FleetNode, type ScriptedFleet } from "../support/scripted-fleet.ts";
import type { ScriptedNode } from "../support/scripted-node.ts";
import { waitFor } from "../support/wait-for.ts";

/** What becomes of tasks that fail, that lose their host and that are called off; how fences survive a restored database. */
const never = new AbortController().signal;
let fleet: ScriptedFleet;
let alpha: FleetNode;
let beta: FleetNode;
let serial = 0;

type Taken = Awaited<ReturnType<ScriptedNode["takeTask"]>>;

beforeAll(async () => {
  fleet = await startScriptedFleet();
  alpha = await fleet.add("alpha", 2);
  beta = await fleet.add("beta", 4);
  // The test is their agent, and says itself when that starts anew.
  await Promise.all([alpha.silence(), beta.silence()]);
});
afterAll(async () => await fleet?.close());

async function request(gpus = 1): Promise<Allocation> {
  serial += 1;
  const labels = { "hostler.dev/driver": "mock" };
  const { operator, projectId } = fleet;
  return await requestSlice(operator, { projectId, name: `r-${serial}`, image: "tiny", gpus, labels });
}

/** Which start of its agent each node is at. */
const instances = new Map<ScriptedNode, string>();

/** Polls until a task comes; with the cause of a new start of the agent when there is one. */
async function take(node: ScriptedNode, endedCleanly = false): Promise<Taken> {
  const agentInstance = instances.get(node) ?? node.name;
  return await waitFor(
    "a task",
    async () => {
      const [task] = (await node.poll({ agentInstance, endedCleanly, credit: 1, waitMs: 1000 })).tasks;
      return task === undefined ? undefined : { jws: task.jws, claims: await node.identity.verifyTask(task.jws) };
    },
    { timeoutMs: 20_000 },
  );
}

function startAnew(node: ScriptedNode): void {
  serial += 1;
  instances.set(node, `${node.name}-${serial}`);
}

async function end(node: ScriptedNode, task: Taken): Promise<void> {
  await node.send(task.claims.jti, await node.resultOf(task, "succeeded"));
}

async function giveBack(node: ScriptedNode, allocation: Allocation): Promise<void> {
  await requestRelease(fleet.operator, allocation.id);
  await end(node, await take(node));
  expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("released");
}

function eventOf(phase: string): PhaseEvent {
  const at = systemClock.now().toISOString();
  return { seq: 1, phase, direction: "apply", status: "started", attempt: 1, at, durationMs: null, message: null };
}

async function tell(node: ScriptedNode, { claims }: Taken, phase: string): Promise<{ cancel: boolean }> {
  const { jti: taskId, fence } = claims;
  return await node.client.sendProgress({ taskId, fence, events: [eventOf(phase)], signal: never });
}

describe("a task that fails", () => {
  test("in passing waits, then comes again with a higher fence, and its operation is retrying meanwhile", async () => {
    const allocation = await request();
    const first = await take(alpha);
    const failed = await alpha.resultOf(first, "failed", { class: "transient" });
    await alpha.send(first.claims.jti, failed);
    const [row] = await fleet.sql<{ state: string; waits: boolean }[]>`
      select o.state, t.run_at > t.created_at as waits
      from tasks t join operations o on o.id = t.operation_id
      where t.id = ${first.claims.jti}
    `;
    expect(row).toEqual({ state: "retrying", waits: true });
    const second = await take(alpha);
    expect(second.claims.jti).toBe(first.claims.jti);
    expect(BigInt(second.claims.fence)).toBeGreaterThan(BigInt(first.claims.fence));
    await end(alpha, second);
    await giveBack(alpha, allocation);
  });

  test("for want of room goes to another host as a new generation, and the first host's slots are free", async () => {
    const allocation = await request();
    const first = await take(alpha);
    await alpha.send(first.claims.jti, await alpha.resultOf(first, "failed", { class: "capacity" }));
    const second = await take(beta);
    const spec = sliceSpecSchema.parse(JSON.parse(second.claims.params));
    expect(spec).toMatchObject({ allocationId: allocation.id, generation: 2 });
    expect(spec.gpuUuids[0]).toMatch(/^GPU-beta/);
    await tell(beta, second, "image");
    await end(beta, second);
    const active = await readAllocation(fleet.operator, allocation.id);
    expect(active).toMatchObject({ state: "active", nodeName: "beta" });
    expect(active.gpus[0]?.uuid).toBe(spec.gpuUuids[0]);
    const topics = await fleet.sql<{ topic: string }[]>`
      select topic from events where aggregate_id = ${allocation.id} order by aggregate_version
    `;
    expect(topics.map(({ topic }) => topic)).toEqual([
      "allocation.requested",
      "allocation.placed_again",
      "allocation.provisioning",
      "allocation.active",
    ]);
    await giveBack(beta, allocation);
    const free = await fleet.sql`select from gpu_slots where state = 'available'`;
    expect(free).toHaveLength(6);
  });

  test("for want of room everywhere fails with the reason, and owns nothing", async () => {
    const allocation = await request(3);
    const only = await take(beta);
    await beta.send(only.claims.jti, await beta.resultOf(only, "failed", { class: "capacity", message: "no room" }));
    const failed = await readAllocation(fleet.operator, allocation.id);
    expect(failed).toMatchObject({ state: "failed", reason: "no room" });
    expect(await fleet.sql`select from gpu_slots where state <> 'available'`).toHaveLength(0);
  });
});

describe("a task whose agent crashes", () => {
  test("three times in one phase is dead: the slice failed, its slots are quarantined with the reason", async () => {
    const allocation = await request();
    for (let crash = 1; crash <= 3; crash += 1) {
      const task = await take(alpha);
      await tell(alpha, task, "start");
      startAnew(alpha);
    }
    await alpha.poll({ agentInstance: instances.get(alpha) ?? "" });
    const failed = await readAllocation(fleet.operator, allocation.id);
    expect(failed).toMatchObject({ state: "failed", reason: "Its host was lost 3 times in phase start." });
    const [slot] = await fleet.sql<
      { state: string }[]
    >`select state from gpu_slots where reason like 'release: Its host was lost%'`;
    expect(slot?.state).toBe("quarantined");
    const [dead] = await fleet.sql<
      { crashes: number }[]
    >`select crashes from task_history where dead_reason is not null`;
    expect(dead).toEqual({ crashes: 2 });
    await fleet.sql`update gpu_slots set state = 'available', reason = null where state = 'quarantined'`;
  });

  test("because it was stopped in order loses nothing by it", async () => {
    const allocation = await request();
    let task = await take(alpha);
    for (let stop = 1; stop <= 4; stop += 1) {
      await tell(alpha, task, "start");
      startAnew(alpha);
      task = await take(alpha, true);
    }
    await end(alpha, task);
    await giveBack(alpha, allocation);
  });
});

test("a slot that comes free goes before a slice that is built", async () => {
  const old = await request();
  await end(alpha, await take(alpha));
  const young = await request();
  await requestRelease(fleet.operator, old.id);
  const first = await take(alpha);
  expect(first.claims.kind).toBe("slice.vm_release");
  await end(alpha, first);
  await end(alpha, await take(alpha));
  await giveBack(alpha, young);
});

test("a release that takes its agent along is dead, listed, and tried again when an operator says so", async () => {
  const allocation = await request();
  await end(alpha, await take(alpha));
  await requestRelease(fleet.operator, allocation.id);
  for (let crash = 1; crash <= 3; crash += 1) {
    await tell(alpha, await take(alpha), "reset");
    startAnew(alpha);
  }
  await alpha.poll({ agentInstance: instances.get(alpha) ?? "" });
  expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("release_failed");
  const dead = await fleet.operator.list("/api/ops/v1/dead-tasks", deadTaskSchema);
  const [task] = dead.filter(({ targetId }) => targetId === allocation.id);
  expect(task).toMatchObject({ kind: "slice.vm_release", reason: "Its host was lost 3 times in phase reset." });
  await fleet.operator.post(`/api/ops/v1/dead-tasks/${task?.id ?? ""}/redrive`, {}, allocationOperationSchema);
  await end(alpha, await take(alpha));
  expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("released");
  const build = dead.find(({ kind }) => kind === "slice.vm_provision");
  const refused = fleet.operator.post(
    `/api/ops/v1/dead-tasks/${build?.id ?? ""}/redrive`,
    {},
    allocationOperationSchema,
  );
  await expect(refused).rejects.toMatchObject({ code: "conflict" });
});

describe("fences", () => {
  test("lie above all that came before when the database was restored or taken over", async () => {
    const allocation = await request();
    const before = await take(alpha);
    await end(alpha, before);
    // What a restore does: an older number, and another history of the same rows.
    await fleet.sql`select setval('fence_seq', 1)`;
    await fleet.sql`update fence_epoch set history = 'of another server'`;
    await requestRelease(fleet.operator, allocation.id);
    const after = await take(alpha);
    expect(BigInt(after.claims.fence)).toBeGreaterThan(BigInt(before.claims.fence));
    await end(alpha, after);
  });

  test("lie above what a starting agent has seen, also when the history gives nothing away", async () => {
    const highestFence = String((5n << 40n) + 17n);
    const agentInstance = newId("event", systemClock);
    const session = { protocolVersion: 3, agentInstance, previous: alpha.session, highWaterMark: 0, highestFence };
    const answer = await alpha.client.startSession(session, never);
    alpha.client.useSession(answer.session);
    const allocation = await request();
    const task = await take(alpha);
    expect(BigInt(task.claims.fence)).toBeGreaterThan(BigInt(highestFence));
    await end(alpha, task);
    await giveBack(alpha, allocation);
  });
});
