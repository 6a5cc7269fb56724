import type { ApiClient } from "@hostler/cli/api-client.ts";
import { allocationOperationSchema, phaseListSchema, type Allocation } from "@hostler/shared/api/allocations.ts";
import { apiKeyCreatedSchema } from "@hostler/shared/api/identity.ts";
import { receiptListSchema, slotReceiptsSchema } from "@hostler/shared/api/receipts.ts";
import { taskLogSchema, taskSchema } from "@hostler/shared/api/tasks.ts";
import type { CommandRecord } from "@hostler/shared/command-records.ts";
import type { PhaseEvent } from "@hostler/shared/tasks.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import * as z from "zod";
import { clientFor } from "../../deploy/demo/local-cloud.ts";
import { runHostler } from "../support/run-hostler.ts";
import { startScriptedFleet, type FleetNode, type ScriptedFleet } from "../support/scripted-fleet.ts";

/** What operators and tenants read afterwards: the programs of phases that failed, and receipts. */
const never = new AbortController().signal;
const FAILED: CommandRecord = {
  at: "2026-01-01T00:00:00.000Z",
  argv: ["qemu-img", "create", "-f", "qcow2", "a b"],
  end: "exited",
  exitCode: 1,
  signal: null,
  durationMs: 12,
  stdout: "",
  stderr: "qemu-img: the disk said no\n",
};

let fleet: ScriptedFleet;
let node: FleetNode;
let tenant: ApiClient;
let stranger: ApiClient;
beforeAll(async () => {
  fleet = await startScriptedFleet();
  node = await fleet.add("logged", 2);
  await node.silence();
  const { publicUrl } = fleet.plane.ready;
  const keyOf = async (name: string, projectId: string) => {
    const bindings = [{ role: "member", projectId }];
    const key = await fleet.operator.post("/api/ops/v1/api-keys", { name, bindings }, apiKeyCreatedSchema);
    return clientFor(publicUrl, key.secret);
  };
  tenant = await keyOf("tenant", fleet.projectId);
  const ided = z.object({ id: z.string() });
  const other = await fleet.operator.post("/api/ops/v1/organizations", { name: "other" }, ided);
  const project = { organizationId: other.id, name: "theirs" };
  const theirs = await fleet.operator.post("/api/ops/v1/projects", project, ided);
  stranger = await keyOf("stranger", theirs.id);
});
afterAll(async () => await fleet?.close());

async function request(name: string, gpus: number): Promise<Allocation> {
  await node.poll();
  const wish = { name, image: "tiny", gpus: { count: gpus }, labels: { "hostler.dev/driver": "mock" } };
  const path = `/api/tenant/v1/projects/${fleet.projectId}/allocations`;
  return (await tenant.post(path, wish, allocationOperationSchema)).allocation;
}

function event(overrides: Partial<PhaseEvent>): PhaseEvent {
  const at = new Date().toISOString();
  const base = { seq: 1, phase: "disk", direction: "apply", status: "failed", attempt: 1 } as const;
  return { ...base, at, durationMs: 20, message: null, ...overrides };
}

async function endProvision(events: readonly PhaseEvent[], outcome: "succeeded" | "failed"): Promise<string> {
  const task = await node.takeTask();
  const { jti: taskId, fence } = task.claims;
  const sent = { taskId, fence, signal: never, timeoutMs: 10_000 };
  await node.client.sendProgress({ ...sent, events });
  await node.send(taskId, await node.resultOf(task, outcome));
  return taskId;
}

const hostler = async (...args: readonly string[]) =>
  await runHostler(args, {
    home: fleet.folder,
    signIn: { url: fleet.plane.ready.publicUrl, apiKey: fleet.apiKey },
  });

test("an operator reads what the programs of a failing phase said, and its tenant does not", async () => {
  const allocation = await request("fails", 0);
  const commands = [{ ...FAILED, argv: ["ip", "link"], exitCode: 0, stderr: "" }, FAILED];
  const taskId = await endProvision(
    [event({ status: "retrying", message: "again", commands: [FAILED] }), event({ seq: 2, attempt: 2, commands })],
    "failed",
  );
  const log = await fleet.operator.get(`/api/ops/v1/tasks/${taskId}/log`, taskLogSchema);
  expect(log.task).toMatchObject({ id: taskId, targetId: allocation.id, state: "failed", nodeId: node.nodeId });
  expect(log.entries.map((entry) => [entry.status, entry.attempt, entry.commands.length])).toEqual([
    ["retrying", 1, 1],
    ["failed", 2, 2],
  ]);
  expect(log.entries[1]?.commands).toEqual(commands);
  const ofNode = await fleet.operator.list(`/api/ops/v1/tasks?nodeId=${node.nodeId}`, taskSchema);
  expect(ofNode.map(({ id }) => id)).toEqual([taskId]);
  expect(ofNode[0]?.failure).toMatchObject({ code: "command_failed", message: "as the test says" });
  for (const question of ["", `?nodeId=${node.nodeId}&allocationId=${allocation.id}`])
    await expect(fleet.operator.list(`/api/ops/v1/tasks${question}`, taskSchema)).rejects.toMatchObject({
      code: "validation_failed",
    });

  for (const path of [`/api/ops/v1/tasks/${taskId}/log`, `/api/ops/v1/tasks?nodeId=${node.nodeId}`])
    await expect(tenant.get(path, z.unknown())).rejects.toMatchObject({ code: "permission_denied" });
  const phases = await tenant.get(`/api/tenant/v1/allocations/${allocation.id}/phases`, phaseListSchema.loose());
  expect(JSON.stringify(phases)).not.toContain("the disk said no");

  for (const words of [taskId, allocation.id]) {
    const { stdout, code } = await hostler("tasks", "log", words);
    expect({ code, stdout }).toMatchObject({ code: 0 });
    expect(stdout).toContain('$ qemu-img create -f qcow2 "a b"\n');
    expect(stdout).toContain("exit 1, 12 ms\n");
    expect(stdout).toContain("| qemu-img: the disk said no");
  }
  expect((await hostler("tasks", "list", "--node", "logged")).stdout).toContain(taskId);
});

test("what a host tells of its programs does not act on the screen that shows it, and is not more than fits", async () => {
  await request("hostile", 0);
  const { claims } = await node.takeTask();
  const sent = { taskId: claims.jti, fence: claims.fence, signal: never, timeoutMs: 10_000 };
  const hostile = { ...FAILED, argv: ["\u202etxt", "\ud800"], stderr: "\u001b[2J\u0000\u200b" };
  await node.client.sendProgress({ ...sent, events: [event({ commands: [hostile] })] });
  const log = await fleet.operator.get(`/api/ops/v1/tasks/${claims.jti}/log`, taskLogSchema);
  const [shown] = log.entries[0]?.commands ?? [];
  expect(shown).toMatchObject({ argv: ["\\u{202e}txt", "\ufffd"], stderr: "\ufffd[2J\ufffd\\u{200b}" });
  for (const commands of [[{ ...FAILED, stderr: "x".repeat(5000) }], Array.from({ length: 6 }, () => FAILED)])
    await expect(node.client.sendProgress({ ...sent, events: [event({ commands })] })).rejects.toMatchObject({
      code: "validation_failed",
    });
});

test("a tenant reads the receipt of its slice, an operator that of the slot, and a changed one is seen", async () => {
  const allocation = await request("receipted", 2);
  await endProvision([], "succeeded");
  await tenant.post(`/api/tenant/v1/allocations/${allocation.id}/release`, {}, allocationOperationSchema);
  const task = await node.takeTask();
  const result = await node.resultOf(task, "succeeded");
  await node.send(task.claims.jti, result);

  const path = `/api/tenant/v1/allocations/${allocation.id}/receipts`;
  const [receipt, ...more] = (await tenant.get(path, receiptListSchema)).items;
  expect(more).toEqual([]);
  expect(receipt).toMatchObject({
    ...{ taskId: task.claims.jti, taskKind: "slice.vm_release", nodeId: node.nodeId, allocationId: allocation.id },
    ...{ signature: "verified", outcome: "succeeded", untouched: false, result },
    disk: { method: "scripted", readBack: "absent" },
  });
  expect(receipt?.gpus.map(({ clean, reset }) => [clean, reset])).toEqual([
    [true, "scripted"],
    [true, "scripted"],
  ]);
  await expect(stranger.get(path, z.unknown())).rejects.toMatchObject({ code: "not_found" });

  const slots = `/api/ops/v1/nodes/${node.nodeId}/receipts`;
  const { items } = await fleet.operator.get(slots, slotReceiptsSchema);
  expect(items.map((slot) => [slot.state, slot.receipt?.taskId])).toEqual(
    Array.from({ length: 2 }, () => ["available", task.claims.jti]),
  );
  await expect(tenant.get(slots, z.unknown())).rejects.toMatchObject({ code: "permission_denied" });
  expect((await hostler("nodes", "slots", "logged")).stdout).toMatch(/available.*scripted.*verified/);
  expect((await hostler("allocations", "receipt", allocation.id)).stdout).toMatch(/scripted, then absent +verified/);

  // A better reset than the host signed for; and another task's signed result.
  const [head, payload = "", signature] = result.split(".");
  const forged = Buffer.from(payload, "base64url")
    .toString("utf8")
    .replaceAll('"reset":"scripted"', '"reset":"perfect"');
  const changed = [head, Buffer.from(forged).toString("base64url"), signature].join(".");
  for (const [jws, taskId] of [
    [changed, task.claims.jti],
    [result, "task_01900000-0000-7000-8000-000000000001"],
  ] as const) {
    await fleet.sql`update slot_receipts set result_jws = ${jws}, task_id = ${taskId} where node_id = ${node.nodeId}`;
    const after = (await fleet.operator.get(slots, slotReceiptsSchema)).items;
    expect(after.map((slot) => slot.receipt?.signature)).toEqual(["unverified", "unverified"]);
  }
});
