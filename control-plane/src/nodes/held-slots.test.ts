import { EIGHT } from "@hostler/shared/mig/test-tables.ts";
import { NODE_PATHS, type Gpu, type Inventory } from "@hostler/shared/node-protocol.ts";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { inTransaction } from "../db/transaction.ts";
import { keepHeldSlots } from "./held-slots.ts";
import { connectAs, startTestPlane, type TestConnection, type TestPlane } from "./test-plane.ts";

let plane: TestPlane;
let nodeId: string;
let connection: TestConnection;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());
beforeEach(async () => {
  const node = await plane.makeNode();
  nodeId = node.answer.nodeId;
  connection = connectAs(plane, node);
  await report([makeGpu({ mig: { profiles: [...EIGHT.profiles] } })]);
  return () => connection.close();
});

function makeGpu(overrides: Partial<Gpu> = {}): Gpu {
  const common = { index: 0, model: "NVIDIA H100", kind: "h100", memoryMib: 81_559, pciAddress: "0000:01:00.0" };
  return { uuid: "GPU-0", ...common, migCapable: true, healthy: true, fault: null, ...overrides };
}

async function report(gpus: Inventory["gpus"]): Promise<void> {
  const facts = {
    os: "Debian 12",
    kernel: "6.1",
    architecture: "x64",
    cpuModel: "test",
    bootId: "b",
    hostName: "host",
  };
  const inventory: Inventory = {
    facts: { ...facts, cpus: 8, memoryMib: 10_000, diskFreeGib: 100 },
    gpus,
    gpusSimulated: true,
    drivers: [],
    agentVersion: "test",
  };
  expect((await connection.post(NODE_PATHS.inventory, inventory)).status).toBe(200);
}

async function keep(...gpuUuids: readonly string[]): Promise<void> {
  const held = gpuUuids.length === 0 ? [] : [{ holder: "alc-1 generation 1", gpuUuids }];
  await inTransaction(plane.sql, async (tx) => await keepHeldSlots(tx, nodeId, held));
}

async function slots(): Promise<unknown[]> {
  const rows =
    await plane.sql`select gpu_uuid as uuid, state, reason from gpu_slots where node_id = ${nodeId} order by gpu_uuid`;
  return rows.map((row) => [row["uuid"], row["state"], row["reason"]]);
}

/** From large to small. */
async function free(): Promise<number[]> {
  const rows = await plane.sql<{ free: number }[]>`
    select free from mig_capacity where node_id = ${nodeId} order by size desc, profile
  `;
  return rows.map((row) => row.free);
}

test("a place that something unknown holds is nobody's until it is gone, and may be told again", async () => {
  for (let time = 0; time < 2; time += 1) {
    await keep("GPU-0/20:2");
    expect(await slots()).toEqual([
      ["GPU-0", "divided", null],
      ["GPU-0/20:2", "quarantined", "orphan: alc-1 generation 1"],
    ]);
    expect(await free()).toEqual([0, 1, 2, 5, 1]);
  }
  await keep("GPU-0/20:2", "GPU-0/10:3");
  expect(await slots()).toHaveLength(2);
  await keep();
  expect(await slots()).toEqual([["GPU-0", "divided", null]]);
  expect(await free()).toEqual([1, 2, 3, 7, 1]);
});

test("a place that cannot be told keeps the whole card, as does what holds the card itself", async () => {
  for (const held of ["GPU-0/99:0", "GPU-0"]) {
    await keep(held);
    expect(await slots()).toEqual([["GPU-0", "quarantined", "orphan: alc-1 generation 1"]]);
    expect(await free()).toEqual([0, 0, 0, 0, 0]);
    await keep();
    expect(await slots()).toEqual([["GPU-0", "divided", null]]);
    expect(await free()).toEqual([1, 2, 3, 7, 1]);
  }
  await keep("GPU-1/10:0", "GPU-1");
  expect(await slots()).toHaveLength(1);
});

test("a part of a card that is given whole keeps all of it", async () => {
  await report([makeGpu()]);
  await keep("GPU-0/10:0");
  expect(await slots()).toEqual([["GPU-0", "quarantined", "orphan: alc-1 generation 1"]]);
  await keep();
  expect(await slots()).toEqual([["GPU-0", "available", null]]);
});

test("the database itself refuses a part over another, a part that is left to nobody, and a card in parts that is free whole", async () => {
  const insert = async (
    uuid: string,
    place: readonly [number, number, number],
    state = "quarantined",
  ): Promise<void> => {
    await plane.sql`
      insert into gpu_slots (node_id, gpu_uuid, gpu_kind, gpu, state, card_uuid, mig_profile, mig_start, mig_size)
      values (${nodeId}, ${uuid}, 'k', '{}', ${state}, 'GPU-0', ${place[0]}, ${place[1]}, ${place[2]})
    `;
  };
  await insert("GPU-0/30:4", [30, 4, 4]);
  await expect(insert("GPU-0/10:4", [10, 4, 1])).rejects.toThrow("lies over another");
  await expect(insert("GPU-0/70:0", [70, 0, 8])).rejects.toThrow("lies over another");
  await expect(insert("GPU-0/10:0", [10, 0, 1], "available")).rejects.toThrow("is nobody's and still there");
  await expect(
    plane.sql`update gpu_slots set state = 'available' where node_id = ${nodeId} and gpu_uuid = 'GPU-0'`,
  ).rejects.toThrow("gpu_slots_not_whole");
  expect(await slots()).toHaveLength(2);
});

test("a host cannot report a part as a GPU", async () => {
  const inventory = { gpus: [makeGpu({ uuid: "GPU-0/10:0" })] };
  await expect(report(inventory.gpus)).rejects.toThrow();
  expect(await slots()).toEqual([["GPU-0", "divided", null]]);
});
