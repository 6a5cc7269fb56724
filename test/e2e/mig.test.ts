import {
  allocationGroupSchema,
  allocationOperationSchema,
  placementExplanationSchema,
  type Allocation,
} from "@hostler/shared/api/allocations.ts";
import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { isAppError } from "@hostler/shared/errors.ts";
import { parseSlotId } from "@hostler/shared/gpu-slots.ts";
import { isDisjoint, isWithinRules } from "@hostler/shared/mig/test-oracle.ts";
import { EIGHT, TWELVE } from "@hostler/shared/mig/test-tables.ts";
import { migCapacityOf, type MigTable, type MigTaken } from "@hostler/shared/mig/plan-mig.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { requestRelease } from "../../deploy/demo/journey.ts";
import { startScriptedFleet, type FleetNode, type ScriptedFleet } from "../support/scripted-fleet.ts";
import { makeGpu } from "../support/scripted-node.ts";

/** Cards that are handed out in parts: who gets which place, and what comes back. Hosts do what the test says. */
let fleet: ScriptedFleet;
let serial = 0;
beforeAll(async () => void (fleet = await startScriptedFleet()));
afterAll(async () => await fleet?.close());

const never = new AbortController().signal;
const inParts = (table: MigTable) => ({ mig: { profiles: [...table.profiles] } });

/** A host of this test alone: its name is in the label that each request selects by. */
async function addNode(gpusOf: (name: string) => readonly Gpu[]) {
  const name = `m${++serial}`;
  const node = await fleet.add(name, gpusOf(name));
  await fleet.act(node, "labels", { labels: { test: name } });
  onTestFinished(async () => {
    await fleet.act(node, "cordon");
    await node.silence();
  });
  return node;
}

function makeTemplate(node: FleetNode, kind: string | null, overrides: Readonly<Record<string, unknown>> = {}) {
  const labels = { "hostler.dev/driver": "mock" };
  return { image: "tiny", gpus: { count: 1, kind }, labels, nodeSelector: { test: node.name }, ...overrides };
}

async function create(
  node: FleetNode,
  kind: string | null,
  overrides: Readonly<Record<string, unknown>> = {},
): Promise<Allocation> {
  const body = { name: `s-${++serial}`, ...makeTemplate(node, kind, overrides) };
  const path = `/api/tenant/v1/projects/${fleet.projectId}/allocations`;
  return (await fleet.operator.post(path, body, allocationOperationSchema)).allocation;
}

async function createGroup(node: FleetNode, kind: string, count: number, gpus = 1) {
  const template = makeTemplate(node, kind, { gpus: { count: gpus, kind } });
  const path = `/api/tenant/v1/projects/${fleet.projectId}/allocation-groups`;
  return await fleet.operator.post(path, { name: `g-${++serial}`, count, template }, allocationGroupSchema);
}

async function reasonFor(node: FleetNode, kind: string, overrides: Readonly<Record<string, unknown>> = {}) {
  const path = `/api/tenant/v1/projects/${fleet.projectId}/placement-explanations`;
  const body = { count: 1, template: makeTemplate(node, kind, overrides) };
  const { nodes } = await fleet.operator.post(path, body, placementExplanationSchema);
  return nodes.find(({ id }) => id === node.nodeId)?.reason;
}

/** The host does the next task and says so. */
async function run(node: FleetNode, outcome: "succeeded" | "failed" = "succeeded"): Promise<void> {
  const task = await node.takeTask();
  await node.send(task.claims.jti, await node.resultOf(task, outcome));
}

async function build(node: FleetNode, kind: string, overrides: Readonly<Record<string, unknown>> = {}) {
  const allocation = await create(node, kind, overrides);
  await run(node);
  return allocation;
}

async function giveBack(node: FleetNode, allocation: Allocation): Promise<void> {
  await requestRelease(fleet.operator, allocation.id);
  await run(node);
}

async function report(node: FleetNode, gpus: readonly Gpu[]): Promise<void> {
  await node.client.sendInventory({ ...node.inventory, gpus: [...gpus] }, never);
}

/** `state of the whole card: profile@start state ...`, card by card. */
async function shown(node: FleetNode): Promise<string[]> {
  const { slots } = await fleet.show(node);
  return slots
    .filter(({ part }) => part === null)
    .map(({ gpu, state }) => {
      const parts = slots
        .filter(({ part }) => part?.cardUuid === gpu.uuid)
        .map((slot) => `${parseSlotId(slot.gpu.uuid)?.place?.profileId}@${slot.part?.start} ${slot.state}`);
      return [state, ...parts].join(", ");
    });
}

/** What is free must be what the planner says of what lies there, and what lies there must be possible. */
async function expectTrue(node: FleetNode, table: MigTable): Promise<void> {
  const { slots } = await fleet.show(node);
  for (const { gpu, divided, state } of slots.filter(({ part }) => part === null)) {
    const taken = slots.flatMap(({ gpu: { uuid }, part }): MigTaken[] => {
      const place = parseSlotId(uuid)?.place ?? null;
      return part === null || place === null || part.cardUuid !== gpu.uuid ? [] : [{ ...place, size: part.size }];
    });
    expect(isDisjoint(taken)).toBe(true);
    expect(isWithinRules(table, taken)).toBe(true);
    expect(state).toBe("divided");
    const free = migCapacityOf(table, taken).map((one) => [
      `${gpu.kind}-${one.profile.name.replace("+", ".")}`,
      one.free,
    ]);
    const said = divided?.free.map((one) => [one.kind, one.free]) ?? [];
    expect(Object.fromEntries(said)).toEqual(Object.fromEntries(free));
  }
}

test("parts are given where large ones stay possible, and their places come free with a clean receipt", async () => {
  const node = await addNode((name) => [makeGpu(name, 0, inParts(EIGHT)), makeGpu(name, 1, inParts(EIGHT))]);
  const small = await build(node, "h100-1g.8gb");
  expect(small.gpus).toEqual([
    { uuid: `GPU-${node.name}-0/10:6`, kind: "h100-1g.8gb", model: "NVIDIA H100 80GB HBM3 MIG 1g.8gb" },
  ]);
  // The card that is broken already is filled first.
  const half = await build(node, "h100-3g.32gb");
  expect(await shown(node)).toEqual(["divided, 30@0 owned, 10@6 owned", "divided"]);
  const whole = await build(node, "h100-7g.64gb");
  expect(whole.gpus[0]?.uuid).toBe(`GPU-${node.name}-1/70:0`);
  await expectTrue(node, EIGHT);
  expect((await fleet.show(node)).free.gpus).toBe(0);
  await giveBack(node, small);
  await giveBack(node, whole);
  expect(await shown(node)).toEqual(["divided, 30@0 owned", "divided"]);
  await expectTrue(node, EIGHT);
  await giveBack(node, half);
  expect((await fleet.show(node)).slots[0]?.divided).toEqual({
    units: 8,
    free: [
      { kind: "h100-7g.64gb", free: 1 },
      { kind: "h100-3g.32gb", free: 2 },
      { kind: "h100-2g.16gb", free: 3 },
      { kind: "h100-1g.8gb", free: 7 },
      { kind: "h100-1g.8gb.me", free: 1 },
    ],
  });
});

test("a request without a kind never gets a part, nor does a whole card that is given in parts go to anybody", async () => {
  const node = await addNode((name) => [
    makeGpu(name, 0, inParts(TWELVE)),
    makeGpu(name, 1),
    makeGpu(name, 2, { ...inParts(EIGHT), kind: "a100" }),
  ]);
  expect((await fleet.show(node)).free.gpus).toBe(1);
  expect((await create(node, null)).gpus.map(({ uuid }) => uuid)).toEqual([`GPU-${node.name}-1`]);
  await expect(create(node, null)).rejects.toMatchObject({ code: "capacity_unavailable" });
  await expect(create(node, "h100")).rejects.toMatchObject({ code: "capacity_unavailable" });
  expect((await create(node, "a100-3g.32gb")).gpus[0]?.uuid).toBe(`GPU-${node.name}-2/30:4`);
  expect((await create(node, "h100-2g.40gb")).gpus[0]?.uuid).toBe(`GPU-${node.name}-0/4:0`);
});

test("several parts of one request, and the slices of a gang, lie on the cards together or not at all", async () => {
  const node = await addNode((name) => [makeGpu(name, 0, inParts(EIGHT)), makeGpu(name, 1, inParts(EIGHT))]);
  await expect(createGroup(node, "h100-2g.16gb", 7)).rejects.toMatchObject({ code: "capacity_unavailable" });
  await expectTrue(node, EIGHT);
  const group = await createGroup(node, "h100-2g.16gb", 3, 2);
  expect(new Set(group.allocations.flatMap(({ allocation }) => allocation.gpus.map(({ uuid }) => uuid))).size).toBe(6);
  await expectTrue(node, EIGHT);
  expect(await reasonFor(node, "h100-3g.32gb")).toBe(
    "2 cards in MIG, no place for h100-3g.32gb: largest free profile is 1g.8gb",
  );
  expect(await reasonFor(node, "h100-1g.8gb", { gpus: { count: 3, kind: "h100-1g.8gb" } })).toBe(
    "2 of 3 h100-1g.8gb free on 2 cards in MIG: largest free profile is 1g.8gb",
  );
  await createGroup(node, "h100-1g.8gb", 2);
  expect(await reasonFor(node, "h100-1g.8gb")).toBe("2 cards in MIG, no place for h100-1g.8gb: no place is free");
});

test("a machine cannot have a part, and hears what to ask for", async () => {
  const node = await addNode((name) => [makeGpu(name, 0, inParts(EIGHT))]);
  const refusal = await create(node, "h100-1g.8gb", { labels: {} }).catch((error: unknown) => error);
  expect(refusal).toMatchObject({ code: "validation_failed" });
  if (isAppError(refusal)) expect(refusal.message).toContain("ask for hostler.dev/driver: container");
  expect(await reasonFor(node, "h100-1g.8gb", { labels: {} })).toBe(
    "MIG slots are given to containers; ask for hostler.dev/driver: container",
  );
});

test("a part that its host could not prove clean keeps its place until an operator gives it back", async () => {
  const node = await addNode((name) => [makeGpu(name, 0, inParts(EIGHT))]);
  const allocation = await build(node, "h100-3g.32gb");
  await requestRelease(fleet.operator, allocation.id);
  const task = await node.takeTask();
  await node.send(task.claims.jti, await node.resultOf(task, "succeeded", {}, { receipts: [], disk: null }));
  expect(await shown(node)).toEqual(["divided, 30@4 quarantined"]);
  await expectTrue(node, EIGHT);
  await expect(create(node, "h100-7g.64gb")).rejects.toMatchObject({ code: "capacity_unavailable" });
  const slot = encodeURIComponent(allocation.gpus[0]?.uuid ?? "");
  const path = `/api/ops/v1/nodes/${node.nodeId}/slots/${slot}/return`;
  await fleet.operator.post(path, { reason: "looked at it" }, nodeSchema);
  expect(await shown(node)).toEqual(["divided"]);
  await expectTrue(node, EIGHT);
});

test("a card that becomes one in parts while it is owned whole is divided when it comes back", async () => {
  const node = await addNode((name) => [makeGpu(name, 0)]);
  const whole = await build(node, "h100");
  await report(node, [makeGpu(node.name, 0, inParts(EIGHT))]);
  expect(await shown(node)).toEqual(["owned"]);
  await expect(create(node, "h100-1g.8gb")).rejects.toMatchObject({ code: "capacity_unavailable" });
  await giveBack(node, whole);
  expect(await shown(node)).toEqual(["divided"]);
  await expectTrue(node, EIGHT);
});

test("a card that is taken back from MIG is given whole when its last part is back", async () => {
  const node = await addNode((name) => [makeGpu(name, 0, inParts(EIGHT))]);
  const parts = [await build(node, "h100-1g.8gb"), await build(node, "h100-1g.8gb")];
  await report(node, [makeGpu(node.name, 0)]);
  expect(await shown(node)).toEqual(["divided, 10@4 owned, 10@6 owned"]);
  for (const kind of ["h100", "h100-1g.8gb", null])
    await expect(create(node, kind)).rejects.toMatchObject({ code: "capacity_unavailable" });
  for (const part of parts) await giveBack(node, part);
  expect(await shown(node)).toEqual(["available"]);
  expect((await create(node, null)).gpus[0]?.uuid).toBe(`GPU-${node.name}-0`);
});

test("a sick card, or one that is gone, gives nothing more; its parts carry the fault until it is well", async () => {
  const node = await addNode((name) => [makeGpu(name, 0, inParts(EIGHT))]);
  const kept = await build(node, "h100-1g.8gb");
  const returned = await build(node, "h100-1g.8gb");
  await report(node, [makeGpu(node.name, 0, { ...inParts(EIGHT), healthy: false, fault: "XID 79" })]);
  expect((await fleet.show(node)).slots.map(({ state, reason }) => [state, reason])).toEqual([
    ["quarantined", "gpu: XID 79"],
    ["owned", "gpu: XID 79"],
    ["owned", "gpu: XID 79"],
  ]);
  await giveBack(node, returned);
  expect(await shown(node)).toEqual(["quarantined, 10@6 owned"]);
  await expect(create(node, "h100-1g.8gb")).rejects.toMatchObject({ code: "capacity_unavailable" });
  await report(node, []);
  expect((await fleet.show(node)).slots[1]).toMatchObject({ reason: expect.stringContaining("does not report") });
  await report(node, [makeGpu(node.name, 0, inParts(EIGHT))]);
  expect((await fleet.show(node)).slots.map(({ state, reason }) => [state, reason])).toEqual([
    ["divided", null],
    ["owned", null],
  ]);
  await expectTrue(node, EIGHT);
  await giveBack(node, kept);
});

test("a table that cannot be planned with keeps its card out of service and says why", async () => {
  const [profile] = EIGHT.profiles;
  if (profile === undefined) throw new Error("a table has profiles");
  const node = await addNode((name) => [makeGpu(name, 0, inParts({ profiles: [profile, profile] }))]);
  expect((await fleet.show(node)).slots).toMatchObject([
    { state: "quarantined", reason: "gpu: its MIG table cannot be used: the profile 10 is in it twice" },
  ]);
});
