import { NODE_PATHS, type Gpu, type Inventory } from "@hostler/shared/node-protocol.ts";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { connectAs, startTestPlane, type Answer, type TestConnection, type TestPlane } from "./test-plane.ts";

let plane: TestPlane;
let nodeId: string;
let connection: TestConnection;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());
beforeEach(async () => {
  const node = await plane.makeNode();
  nodeId = node.answer.nodeId;
  connection = connectAs(plane, node);
  return () => connection.close();
});

function makeGpu(overrides: Partial<Gpu> = {}): Gpu {
  const common = { index: 0, model: "NVIDIA H100", kind: "h100", memoryMib: 81_559, pciAddress: "0000:01:00.0" };
  return { uuid: "GPU-0", ...common, migCapable: true, healthy: true, fault: null, ...overrides };
}

async function report(gpus: readonly Gpu[]): Promise<Answer> {
  const inventory: Inventory = {
    facts: {
      hostName: "host",
      os: "Debian 12",
      kernel: "6.1",
      architecture: "x64",
      cpuModel: "test",
      cpus: 8,
      memoryMib: 10_000,
      diskFreeGib: 100,
      bootId: "b",
    },
    gpus: [...gpus],
    gpusSimulated: true,
    drivers: [{ name: "mock", usable: true, accelerator: "none", note: "for tests" }],
    agentVersion: "test",
  };
  return await connection.post(NODE_PATHS.inventory, inventory);
}

async function slots(): Promise<unknown[]> {
  const rows =
    await plane.sql`select gpu_uuid as uuid, state, reason from gpu_slots where node_id = ${nodeId} order by gpu_uuid`;
  return rows.map((row) => [row["uuid"], row["state"], row["reason"]]);
}

async function own(): Promise<void> {
  const id = nodeId.replace("node_", "alc_");
  await plane.sql.begin(async (tx) => {
    await tx`insert into organizations (id, name) values (${`org-${nodeId}`}, ${nodeId})`;
    await tx`insert into projects (id, organization_id, name) values (${`prj-${nodeId}`}, ${`org-${nodeId}`}, 'p')`;
    await tx`insert into images (id, name, sha256, size_bytes, format) values (${`img-${nodeId}`}, ${nodeId}, '', 1, 'raw')`;
    await tx`insert into operations (id, kind, target_id, state) values (${`op-${nodeId}`}, 'k', ${id}, 'succeeded')`;
    await tx`
      insert into allocations (id, project_id, name, state, driver, image_id, vcpus, memory_mib, disk_gib, operation_id)
      values (${id}, ${`prj-${nodeId}`}, 'a', 'active', 'mock', ${`img-${nodeId}`}, 1, 1, 1, ${`op-${nodeId}`})
    `;
    await tx`insert into events (id, aggregate_id, aggregate_version, topic, body) values (${`evt-${nodeId}`}, ${id}, 1, 't', '{}')`;
    await tx`insert into audit_log (actor, action, target_id, target_version, outcome) values ('a', 'b', ${id}, 1, 'succeeded')`;
    await tx`update gpu_slots set state = 'owned', allocation_id = ${id} where node_id = ${nodeId}`;
  });
}

describe("the first report", () => {
  test("makes the node ready, once, with its event and its audit row", async () => {
    expect((await report([makeGpu()])).status).toBe(200);
    await report([makeGpu()]);
    const { body } = await plane.asOperator("GET", `/api/ops/v1/nodes/${nodeId}`);
    expect(body).toMatchObject({
      state: "ready",
      gpusSimulated: true,
      // Eight processors, four for each; nine tenths of the memory.
      free: { gpus: 1, vcpus: 32, memoryMib: 9000 },
      slots: [{ state: "available", allocationId: null, reason: null, gpu: { kind: "h100" } }],
    });
    const events = await plane.sql`select topic from events where aggregate_id = ${nodeId} order by aggregate_version`;
    expect(events.map((event) => event["topic"])).toEqual(["node.enrolled", "node.ready"]);
  });

  test("of a host without GPUs makes it ready too", async () => {
    await report([]);
    expect(await slots()).toEqual([]);
    expect((await plane.asOperator("GET", `/api/ops/v1/nodes/${nodeId}`)).body["state"]).toBe("ready");
  });

  test("with a field that nobody knows is refused by its pointer", async () => {
    const { status, body } = await report([{ ...makeGpu(), sudo: true } as Gpu]);
    expect(status).toBe(422);
    expect(body["errors"]).toEqual([{ pointer: "/gpus/0/sudo", message: expect.any(String) }]);
  });
});

describe("a GPU", () => {
  test("with a fault is quarantined with it, and comes back when it is healthy", async () => {
    await report([makeGpu({ healthy: false, fault: "ECC errors" })]);
    expect(await slots()).toEqual([["GPU-0", "quarantined", "gpu: ECC errors"]]);
    await report([makeGpu()]);
    expect(await slots()).toEqual([["GPU-0", "available", null]]);
  });

  test("that is not reported any more is quarantined, and comes back when it is seen", async () => {
    await report([makeGpu(), makeGpu({ uuid: "GPU-1", index: 1 })]);
    await report([makeGpu()]);
    expect(await slots()).toEqual([
      ["GPU-0", "available", null],
      ["GPU-1", "quarantined", expect.stringContaining("does not report")],
    ]);
    await report([makeGpu(), makeGpu({ uuid: "GPU-1", index: 1 })]);
    expect(await slots()).toContainEqual(["GPU-1", "available", null]);
  });

  test("that is owned stays owned and carries the fault", async () => {
    await report([makeGpu()]);
    await own();
    await report([makeGpu({ healthy: false, fault: "XID 79" })]);
    expect(await slots()).toEqual([["GPU-0", "owned", "gpu: XID 79"]]);
    await report([]);
    expect(await slots()).toEqual([["GPU-0", "owned", expect.stringContaining("does not report")]]);
    await report([makeGpu()]);
    expect(await slots()).toEqual([["GPU-0", "owned", null]]);
  });

  test.each<[string, readonly Gpu[]]>([
    ["had a fault", [makeGpu({ healthy: false, fault: "ECC errors" })]],
    ["was not seen", []],
  ])("that a failed release quarantined stays so when it %s meanwhile", async (_, between) => {
    await report([makeGpu()]);
    const reason = "release: the disk is not proven erased";
    await plane.sql`update gpu_slots set state = 'quarantined', reason = ${reason} where node_id = ${nodeId}`;
    await report(between);
    await report([makeGpu()]);
    expect(await slots()).toEqual([["GPU-0", "quarantined", reason]]);
  });
});

describe("an operator", () => {
  const act = async (action: string): Promise<Answer> =>
    await plane.asOperator("POST", `/api/ops/v1/nodes/${nodeId}/${action}`, {});

  test("cordons, uncordons and revokes, each once in events and audit", async () => {
    await report([]);
    expect((await act("cordon")).body["state"]).toBe("cordoned");
    expect((await act("cordon")).body["state"]).toBe("cordoned");
    expect((await act("uncordon")).body["state"]).toBe("ready");
    expect((await act("revoke")).body).toMatchObject({ state: "revoked", certificateExpiresAt: null });
    expect(await act("uncordon")).toMatchObject({ status: 409, body: { code: "conflict" } });
    const rows = await plane.sql`select action from audit_log where target_id = ${nodeId} order by seq`;
    expect(rows.map((row) => row["action"])).toEqual([
      "node.enrolled",
      "node.ready",
      "node.cordoned",
      "node.ready",
      "node.revoked",
    ]);
  });

  test("sees a report of a cordoned host leave it cordoned", async () => {
    await report([]);
    await act("cordon");
    await report([makeGpu()]);
    expect((await plane.asOperator("GET", `/api/ops/v1/nodes/${nodeId}`)).body["state"]).toBe("cordoned");
  });

  test("hears that there is no such node", async () => {
    const path = "/api/ops/v1/nodes/node_01900000-0000-7000-8000-000000000001";
    expect((await plane.asOperator("GET", path)).status).toBe(404);
    expect((await plane.asOperator("POST", `${path}/revoke`, {})).status).toBe(404);
  });
});
