import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { operationSchema } from "@hostler/shared/api/common.ts";
import { incidentSchema, type Incident } from "@hostler/shared/api/incidents.ts";
import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { nodeSlicesSchema, type NodeSlices } from "@hostler/shared/api/slices.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { SliceEntry } from "@hostler/shared/node-protocol.ts";
import { TASK_PARAMS, type TaskClaims, type TaskOutcome } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { readAllocation, readPhases, requestRelease, requestSlice } from "../../deploy/demo/journey.ts";
import { runHostler } from "../support/run-hostler.ts";
import { sliceEntryOf } from "../support/slice-entry.ts";
import { startScriptedFleet, type FleetNode, type ScriptedFleet } from "../support/scripted-fleet.ts";

/** A real control plane, told by scripted hosts what they have. Time is shifted in the database. */
const never = new AbortController().signal;
let fleet: ScriptedFleet;
let node: FleetNode;
let mark = 0;
let serial = 0;

beforeAll(async () => void (fleet = await startScriptedFleet()));
afterAll(async () => await fleet?.close());
/** Each test has a host of its own. */
beforeEach(async () => {
  // The hosts before it have room too.
  for (const { id } of await fleet.sql<{ id: string }[]>`select id from nodes where state = 'ready'`)
    await fleet.operator.post(`/api/ops/v1/nodes/${id}/cordon`, {}, nodeSchema);
  node = await fleet.add(`host-${++serial}`, 2);
  mark = 0;
});

async function take(): Promise<{ readonly jws: string; readonly claims: TaskClaims }> {
  const task = await node.takeTask();
  mark = task.claims.seq;
  return task;
}

async function work(kind: string, outcome: TaskOutcome = "succeeded"): Promise<TaskClaims> {
  const task = await take();
  expect(task.claims.kind).toBe(kind);
  await node.send(task.claims.jti, await node.resultOf(task, outcome));
  return task.claims;
}

async function makeActive(): Promise<Allocation> {
  const allocation = await requestSlice(fleet.operator, {
    projectId: fleet.projectId,
    name: `slice-${++serial}`,
    image: "tiny",
    gpus: 1,
    labels: { "hostler.dev/driver": "mock" },
  });
  await work("slice.vm_provision");
  return await readAllocation(fleet.operator, allocation.id);
}

async function tell(slices: SliceEntry[], changes: { highWaterMark?: number; isWhole?: boolean } = {}): Promise<void> {
  const digest = String(++serial).padStart(64, "0");
  await node.client.sendSlices({ digest, highWaterMark: mark, isWhole: true, slices, ...changes }, never);
}

async function slices(): Promise<NodeSlices["slices"]> {
  return (await fleet.operator.get(`/api/ops/v1/nodes/${node.nodeId}/slices`, nodeSlicesSchema)).slices;
}

async function incidents(): Promise<Incident[]> {
  const all = await fleet.operator.list("/api/ops/v1/incidents?state=all", incidentSchema);
  return all.filter((incident) => incident.nodeId === node.nodeId);
}

async function tasks(kind: string): Promise<number> {
  const mine = fleet.sql`where node_id = ${node.nodeId} and kind = ${kind}`;
  const rows = await fleet.sql`select id from tasks ${mine} union all select id from task_history ${mine}`;
  return rows.length;
}

async function cli(...args: readonly string[]): Promise<string> {
  const { publicUrl, firstOperatorKey } = fleet.plane.ready;
  const signIn = { url: publicUrl, apiKey: firstOperatorKey ?? "" };
  const { code, stdout } = await runHostler(args, { home: fleet.folder, signIn });
  expect(code).toBe(0);
  return stdout;
}

async function passTime(minutes: number): Promise<void> {
  await fleet.sql`
    update slice_findings set due_at = due_at - make_interval(mins => ${minutes}), first_seen_at = first_seen_at - make_interval(mins => ${minutes})
    where node_id = ${node.nodeId}
  `;
}

async function slot(): Promise<unknown> {
  const rows =
    await fleet.sql`select state, reason from gpu_slots where node_id = ${node.nodeId} and gpu ->> 'index' = '0'`;
  return rows[0];
}

/** How the host's story ended: what tenants and webhooks hear of the allocation. */
async function topicsOf(id: string): Promise<string[]> {
  const rows = await fleet.sql<{ topic: string }[]>`
    select topic from events where aggregate_id = ${id} order by aggregate_version
  `;
  return rows.map((row) => row.topic.replace("allocation.", ""));
}

test("nothing is found of a slice that is as it should be, and the poll is told whose list is known", async () => {
  const allocation = await makeActive();
  await tell([sliceEntryOf(allocation)]);
  const digest = String(serial).padStart(64, "0");
  expect(await slices()).toMatchObject([{ allocationId: allocation.id, shown: { state: "running" }, finding: null }]);
  expect(await node.poll({ slicesDigest: digest })).toMatchObject({ wantSlices: false });
  expect(await node.poll({ slicesDigest: "f".repeat(64) })).toMatchObject({ wantSlices: true });
  expect(await node.poll()).toMatchObject({ wantSlices: false });
});

describe("a slice whose machine ended", () => {
  test("is repaired once, from what it was made of, and its allocation stays active all the way", async () => {
    const allocation = await makeActive();
    await tell([sliceEntryOf(allocation, { state: "stopped" })]);
    await tell([sliceEntryOf(allocation, { state: "stopped" })]);
    expect(await tasks("slice.vm_repair")).toBe(1);
    expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("active");
    const { params } = await work("slice.vm_repair");
    const { spec, newDisk } = TASK_PARAMS["slice.vm_repair"].parse(JSON.parse(params));
    expect(newDisk).toBe(false);
    expect(spec).toMatchObject({ allocationId: allocation.id, hostName: allocation.name, image: { name: "tiny" } });
    const { operation } = await readPhases(fleet.operator, allocation.id);
    expect(operation).toMatchObject({ kind: "allocation.repair", state: "succeeded" });
    await tell([sliceEntryOf(allocation)]);
    expect(await slices()).toMatchObject([{ finding: null }]);
    expect(await incidents()).toEqual([]);
    expect((await topicsOf(allocation.id)).slice(-3)).toEqual(["active", "repair_started", "repaired"]);
  });

  test("is tried so often with growing pauses, then it is an incident, which ends with it", async () => {
    const allocation = await makeActive();
    for (let round = 1; round <= 5; round += 1) {
      await tell([sliceEntryOf(allocation, { state: "stopped" })]);
      expect(await tasks("slice.vm_repair"), `round ${round}`).toBe(round);
      await work("slice.vm_repair", "failed");
      await tell([sliceEntryOf(allocation, { state: "stopped" })]);
      expect(await tasks("slice.vm_repair"), `in the pause of round ${round}`).toBe(round);
      const [row] = await fleet.sql<{ seconds: number | null }[]>`
        select extract(epoch from due_at - now())::int as seconds from slice_findings where node_id = ${node.nodeId}
      `;
      if (round < 5) expect(Math.abs((row?.seconds ?? 0) - 30 * 2 ** (round - 1))).toBeLessThan(10);
      else expect(row?.seconds).toBeNull();
      await passTime(31);
    }
    await tell([sliceEntryOf(allocation, { state: "stopped" })]);
    expect(await tasks("slice.vm_repair")).toBe(5);
    expect(await incidents()).toMatchObject([{ kind: "slice.stopped", state: "open", severity: "critical" }]);
    expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("active");
    const path = `/api/ops/v1/nodes/${node.nodeId}/slices/${allocation.id}/rebuild`;
    await fleet.operator.post(path, {}, operationSchema);
    await work("slice.vm_repair");
    await tell([sliceEntryOf(allocation)]);
    expect(await incidents()).toMatchObject([{ state: "closed" }]);
  });

  test("is not brought back for ever when it ends again after each repair", async () => {
    const allocation = await makeActive();
    for (let round = 1; round <= 5; round += 1) {
      await tell([sliceEntryOf(allocation, { state: "stopped" })]);
      expect(await tasks("slice.vm_repair"), `round ${round}`).toBe(round);
      await work("slice.vm_repair");
      await tell([sliceEntryOf(allocation)]);
      await passTime(31);
    }
    await tell([sliceEntryOf(allocation, { state: "stopped" })]);
    expect(await tasks("slice.vm_repair")).toBe(5);
    expect(await incidents()).toMatchObject([{ kind: "slice.stopped", state: "open", severity: "critical" }]);
  });

  test("can be given back while it is repaired", async () => {
    const allocation = await makeActive();
    await tell([sliceEntryOf(allocation, { state: "stopped" })]);
    await requestRelease(fleet.operator, allocation.id);
    await work("slice.vm_repair", "cancelled");
    await work("slice.vm_release");
    expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("released");
    const [row] = await fleet.sql`select spec from allocations where id = ${allocation.id}`;
    expect(row?.["spec"]).toBeNull();
    expect(await slot()).toEqual({ state: "available", reason: null });
  });

  test("that nobody picks up the repair of loses nothing", async () => {
    const allocation = await makeActive();
    await tell([sliceEntryOf(allocation, { state: "stopped" })]);
    await fleet.sql`update tasks set expires_at = now() - interval '1 second' where node_id = ${node.nodeId} and state = 'ready'`;
    await expect.poll(async () => await topicsOf(allocation.id), { timeout: 10_000 }).toContain("repair_failed");
    expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("active");
    expect(await slot()).toMatchObject({ state: "owned" });
  });
});

describe("a list that is empty, cut off or old", () => {
  test("deletes nothing and builds nothing: what is gone is an incident, and comes back by an operator's word", async () => {
    const allocation = await makeActive();
    await tell([]);
    await tell([]);
    expect(await incidents()).toMatchObject([
      { kind: "slice.gone", state: "open", seenCount: 2, aboutId: allocation.id },
    ]);
    expect(await tasks("slice.vm_repair")).toBe(0);
    expect(await tasks("slice.remove")).toBe(0);
    expect((await readAllocation(fleet.operator, allocation.id)).state).toBe("active");
    expect(await slot()).toMatchObject({ state: "owned" });
    const path = `/api/ops/v1/nodes/${node.nodeId}/slices/${allocation.id}`;
    await expect(fleet.operator.post(`${path}/removal`, { generation: 1 }, operationSchema)).rejects.toMatchObject({
      code: "not_found",
    });
    await fleet.operator.post(`${path}/rebuild`, {}, operationSchema);
    const { params } = await work("slice.vm_repair");
    expect(TASK_PARAMS["slice.vm_repair"].parse(JSON.parse(params)).newDisk).toBe(true);
    await tell([sliceEntryOf(allocation)]);
    expect(await incidents()).toMatchObject([{ state: "closed" }]);
  });

  test("says nothing about what it lacks when it is not whole", async () => {
    await makeActive();
    await tell([], { isWhole: false });
    expect(await slices()).toEqual([]);
    expect(await incidents()).toEqual([]);
  });

  test("undoes no task that was settled since", async () => {
    const before = mark;
    const allocation = await makeActive();
    await tell([], { highWaterMark: before });
    expect(await slices()).toEqual([]);
    const old = mark;
    await requestRelease(fleet.operator, allocation.id);
    await work("slice.vm_release");
    await tell([sliceEntryOf(allocation)], { highWaterMark: old });
    expect(await slices()).toMatchObject([{ finding: null }]);
    expect(await incidents()).toEqual([]);
    expect(await slot()).toEqual({ state: "available", reason: null });
  });

  test("is believed when the task is long over: a host that was restored knows nothing of it", async () => {
    const before = mark;
    const allocation = await makeActive();
    await fleet.sql`update task_history set ended_at = now() - interval '16 minutes' where node_id = ${node.nodeId}`;
    await tell([], { highWaterMark: before });
    expect(await incidents()).toMatchObject([{ kind: "slice.gone", aboutId: allocation.id }]);
  });
});

describe("a slice that should not be there", () => {
  async function makeOrphan(): Promise<SliceEntry> {
    const allocation = await makeActive();
    await requestRelease(fleet.operator, allocation.id);
    await work("slice.vm_release");
    return sliceEntryOf(allocation);
  }

  test("keeps its GPU from others, and is removed after ten minutes by a signed tombstone", async () => {
    const orphan = await makeOrphan();
    await tell([orphan]);
    expect(await slot()).toEqual({
      state: "quarantined",
      reason: expect.stringContaining(`orphan: ${orphan.allocationId}`),
    });
    expect(await incidents()).toMatchObject([{ kind: "slice.orphan", state: "open", severity: "warning" }]);
    await passTime(9);
    await tell([orphan]);
    expect(await tasks("slice.remove")).toBe(0);
    await passTime(2);
    // Somebody has to ask for the list that it is removed by.
    expect(await node.poll({ slicesDigest: String(serial).padStart(64, "0") })).toMatchObject({ wantSlices: true });
    await tell([orphan]);
    const { params } = await work("slice.remove");
    expect(TASK_PARAMS["slice.remove"].parse(JSON.parse(params))).toMatchObject({
      allocationId: orphan.allocationId,
      generation: 1,
      driver: "mock",
      reason: expect.stringContaining("orphan"),
    });
    await tell([]);
    expect(await slot()).toEqual({ state: "available", reason: null });
    expect(await incidents()).toMatchObject([{ state: "closed" }]);
    const audit =
      await fleet.sql`select from audit_log where action = 'slice.removal_ordered' and target_id = ${orphan.allocationId}`;
    expect(audit).toHaveLength(1);
  });

  test("that goes by itself is left alone, and its GPU is given back", async () => {
    const orphan = await makeOrphan();
    await tell([orphan]);
    await tell([]);
    expect(await slot()).toEqual({ state: "available", reason: null });
    expect(await incidents()).toMatchObject([{ state: "closed" }]);
    expect(await tasks("slice.remove")).toBe(0);
  });

  test("and that cannot be removed goes on as an incident that escalates", async () => {
    const orphan = await makeOrphan();
    for (let round = 1; round <= 5; round += 1) {
      await tell([orphan]);
      await passTime(31);
      await tell([orphan]);
      await work("slice.remove", "failed");
    }
    await passTime(31);
    await tell([orphan]);
    expect(await tasks("slice.remove")).toBe(5);
    expect(await incidents()).toMatchObject([{ state: "open", severity: "critical" }]);
    await fleet.sql`update incidents set opened_at = opened_at - interval '16 minutes' where node_id = ${node.nodeId}`;
    await tell([orphan]);
    expect(await incidents()).toMatchObject([{ state: "escalated" }]);
    expect(await slot()).toMatchObject({ state: "quarantined" });
  });

  test("and that nobody here knows stays until an operator removes it", async () => {
    const stranger = {
      ...sliceEntryOf(await makeActive()),
      allocationId: newId("allocation", systemClock),
      gpuUuids: [node.inventory.gpus[1]?.uuid ?? ""],
    };
    await tell([stranger], { isWhole: false });
    await passTime(60);
    await tell([stranger], { isWhole: false });
    expect(await incidents()).toMatchObject([{ kind: "slice.unknown", seenCount: 2, severity: "critical" }]);
    expect(await tasks("slice.remove")).toBe(0);
    const [held] =
      await fleet.sql`select state from gpu_slots where node_id = ${node.nodeId} and gpu_uuid = ${stranger.gpuUuids[0] ?? ""}`;
    expect(held?.["state"]).toBe("quarantined");
    const path = `/api/ops/v1/nodes/${node.nodeId}/slices/${stranger.allocationId}/removal`;
    await expect(fleet.operator.post(path, { generation: 2 }, operationSchema)).rejects.toMatchObject({
      code: "not_found",
    });
    const shown = new RegExp(`${stranger.allocationId} +1 +mock +running +1 +unknown: `);
    expect(await cli("nodes", "slices", node.nodeId)).toMatch(shown);
    expect(await cli("incidents")).toMatch(
      new RegExp(`open .*slice\\.unknown .*${node.nodeId} .*${stranger.allocationId}`),
    );
    const why = ["--generation", "1", "--reason", "left by a test"];
    expect(await cli("nodes", "slices", "remove", node.nodeId, stranger.allocationId, ...why)).toMatch(/^Ordered: op_/);
    await expect(fleet.operator.post(path, { generation: 1 }, operationSchema)).rejects.toMatchObject({
      code: "conflict",
    });
    const another = { ...stranger, allocationId: newId("allocation", systemClock), gpuUuids: [] };
    await tell([stranger, another], { isWhole: false });
    expect(await incidents()).toHaveLength(1);
    // While the host is at it, nobody gets its GPU.
    await tell([{ ...stranger, state: "releasing" }], { isWhole: false });
    expect(await incidents()).toMatchObject([{ state: "open" }]);
    const [still] = await fleet.sql`select state from gpu_slots where gpu_uuid = ${stranger.gpuUuids[0] ?? ""}`;
    expect(still?.["state"]).toBe("quarantined");
    await work("slice.remove");
    await tell([], { isWhole: false });
    expect(await incidents()).toMatchObject([{ state: "closed" }]);
  });

  test("an allocation's slice is not removed by hand", async () => {
    const allocation = await makeActive();
    await tell([sliceEntryOf(allocation)]);
    const path = `/api/ops/v1/nodes/${node.nodeId}/slices/${allocation.id}/removal`;
    await expect(fleet.operator.post(path, { generation: 1 }, operationSchema)).rejects.toMatchObject({
      code: "conflict",
    });
  });
});

test("a slice that differs is one incident, and one that is unclear only after a minute", async () => {
  const allocation = await makeActive();
  await tell([sliceEntryOf(allocation, { gpuUuids: [] })]);
  expect(await incidents()).toMatchObject([{ kind: "slice.drift", detail: expect.stringContaining("gpus is none") }]);
  await tell([sliceEntryOf(allocation, { state: "unclear" })]);
  expect(await incidents()).toMatchObject([{ kind: "slice.drift", state: "closed" }]);
  await passTime(2);
  await tell([sliceEntryOf(allocation, { state: "unclear" })]);
  expect(await incidents()).toMatchObject([{ kind: "slice.unclear", state: "open" }, { state: "closed" }]);
  expect(await tasks("slice.vm_repair")).toBe(0);
});

test("what is the matter is counted in the metrics", async () => {
  const allocation = await makeActive();
  await tell([sliceEntryOf(allocation, { state: "lost" })]);
  const answer = await fetch(`${fleet.plane.ready.publicUrl}/metrics`, {
    headers: { authorization: `Bearer ${fleet.plane.ready.firstOperatorKey}` },
  });
  const text = await answer.text();
  expect(text).toMatch(/^hostler_incidents\{state="open"\} [1-9]/m);
  expect(text).toMatch(/^hostler_slice_findings\{state="gone"\} [1-9]/m);
});

test("two lists at once, and the same list twice, are judged one after the other", async () => {
  const allocation = await makeActive();
  await Promise.all(
    Array.from({ length: 6 }, async () => await tell([sliceEntryOf(allocation, { state: "stopped" })])),
  );
  expect(await tasks("slice.vm_repair")).toBe(1);
});
