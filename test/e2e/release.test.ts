import { allocationGroupSchema, allocationOperationSchema } from "@hostler/shared/api/allocations.ts";
import { sha256Hex } from "@hostler/pki";
import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { newId } from "@hostler/shared/ids.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { cleanFacts } from "../support/receipts.ts";
import { startScriptedFleet, type ScriptedFleet } from "../support/scripted-fleet.ts";

let fleet: ScriptedFleet;
beforeAll(async () => void (fleet = await startScriptedFleet()));
afterAll(async () => await fleet.close());

const release = async (id: string) =>
  await fleet.operator.post(`/api/tenant/v1/allocations/${id}/release`, {}, allocationOperationSchema);

test("slices that are given back at the same time, some twice and one unknown, each get their own answer", async () => {
  const node = await fleet.add("many", 4);
  const group = await fleet.operator.post(
    `/api/tenant/v1/projects/${fleet.projectId}/allocation-groups`,
    {
      name: "gang",
      count: 4,
      template: { image: "tiny", gpus: { count: 1 }, labels: { "hostler.dev/driver": "mock" } },
    },
    allocationGroupSchema,
  );
  const ids = group.allocations.map(({ allocation }) => allocation.id);
  await node.silence();
  // Two become active, two stay as they were asked for.
  const active: string[] = [];
  for (let turn = 0; turn < 2; turn += 1) {
    const task = await node.takeTask();
    await node.send(task.claims.jti, await node.resultOf(task, "succeeded"));
    active.push(String((JSON.parse(task.claims.params) as { allocationId: string }).allocationId));
  }
  const unknown = newId("allocation", systemClock);
  const answers = await Promise.allSettled([...ids, ...ids, unknown].map(release));
  const states = answers.map((answer) => (answer.status === "fulfilled" ? answer.value.allocation.state : "refused"));
  const expected = ids.map((id) => (active.includes(id) ? "releasing" : "released"));
  expect(states).toEqual([...expected, ...expected, "refused"]);
  for (const id of active) {
    const tasks = await fleet.sql`select from tasks where target_id = ${id} and kind = 'slice.vm_release'`;
    expect(tasks.length).toBe(1);
  }
  const [row] = await fleet.sql`
    select count(*)::int as events from events where aggregate_id = any(${active}) and topic = 'allocation.releasing'
  `;
  expect(row).toEqual({ events: 2 });
});

test("a group is given back at once, and again; of a stranger's group nothing is told", async () => {
  const node = await fleet.add("group", 10);
  const group = await fleet.operator.post(
    `/api/tenant/v1/projects/${fleet.projectId}/allocation-groups`,
    {
      name: "together",
      count: 2,
      template: { image: "tiny", gpus: { count: 5 }, labels: { "hostler.dev/driver": "mock" } },
    },
    allocationGroupSchema,
  );
  await node.silence();
  const task = await node.takeTask();
  await node.send(task.claims.jti, await node.resultOf(task, "succeeded"));
  const path = `/api/tenant/v1/allocation-groups/${group.id}/release`;
  const released = await fleet.operator.post(path, {}, allocationGroupSchema);
  expect(released.allocations.map(({ allocation }) => allocation.state).toSorted()).toEqual(["released", "releasing"]);
  expect(await fleet.operator.post(path, {}, allocationGroupSchema)).toMatchObject({ id: group.id });
  const unknown = `/api/tenant/v1/allocation-groups/${newId("allocationGroup", systemClock)}/release`;
  await expect(fleet.operator.post(unknown, {}, allocationGroupSchema)).rejects.toMatchObject({ code: "not_found" });
});

test("a GPU that comes back without a whole receipt is kept from others until an operator puts it back", async () => {
  const node = await fleet.add("receipts", 2);
  const nodeSelector = { purpose: "receipts" };
  await fleet.operator.post(`/api/ops/v1/nodes/${node.nodeId}/labels`, { labels: nodeSelector }, nodeSchema);
  const wish = { image: "tiny", gpus: { count: 2 }, labels: { "hostler.dev/driver": "mock" }, nodeSelector };
  const allocations = `/api/tenant/v1/projects/${fleet.projectId}/allocations`;
  const { allocation } = await fleet.operator.post(allocations, { name: "first", ...wish }, allocationOperationSchema);
  expect(allocation.nodeId).toBe(node.nodeId);
  await node.silence();
  const build = await node.takeTask();
  await node.send(build.claims.jti, await node.resultOf(build, "succeeded"));
  await release(allocation.id);
  const down = await node.takeTask();
  const [sound, unproven] = allocation.gpus.map((gpu) => gpu.uuid);
  const { receipts, disk } = cleanFacts([sound ?? "", unproven ?? ""]);
  const facts = { receipts: receipts.map((one) => (one.gpuUuid === sound ? one : { ...one, scrub: null })), disk };
  const { jti, fence } = down.claims;
  const result = { jti, tdig: sha256Hex(down.jws), fence, outcome: "succeeded" as const, facts, failure: null };
  await node.send(jti, await node.identity.signResult(result));

  const slots = (await fleet.show(node)).slots.map(({ gpu, state, reason }) => ({ uuid: gpu.uuid, state, reason }));
  expect(slots).toContainEqual({ uuid: sound, state: "available", reason: null });
  expect(slots).toContainEqual({
    uuid: unproven,
    state: "quarantined",
    reason: "release: its receipt does not say: scrub",
  });
  await expect(
    fleet.operator.post(allocations, { name: "second", ...wish }, allocationOperationSchema),
  ).rejects.toMatchObject({ code: "capacity_unavailable" });
  // Not by a healthy report either.
  await node.client.sendInventory(node.inventory, AbortSignal.timeout(10_000));
  expect((await fleet.show(node)).slots.filter((slot) => slot.state === "quarantined")).toHaveLength(1);

  const slotPath = (uuid: string | undefined): string => `/api/ops/v1/nodes/${node.nodeId}/slots/${uuid}/return`;
  const wanted = { reason: "looked at it" };
  await expect(fleet.operator.post(slotPath(sound), wanted, nodeSchema)).rejects.toMatchObject({ code: "conflict" });
  await expect(fleet.operator.post(slotPath("GPU-none"), wanted, nodeSchema)).rejects.toMatchObject({
    code: "not_found",
  });
  const back = await fleet.operator.post(slotPath(unproven), wanted, nodeSchema);
  expect(back.slots.map((slot) => slot.state)).toEqual(["available", "available"]);
  const [audited] = await fleet.sql`select detail from audit_log where action = 'node.slot_returned'`;
  expect(audited).toMatchObject({
    detail: { gpuUuid: unproven, reason: "looked at it", quarantinedFor: "release: its receipt does not say: scrub" },
  });
});
