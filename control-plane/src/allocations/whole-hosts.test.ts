import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { inTransaction } from "../db/transaction.ts";
import { startTestPlane, type TestPlane } from "../nodes/test-plane.ts";
import { place, type Placement } from "./placement.ts";
import { wishOf } from "./wish-of.ts";

let plane: TestPlane;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());
beforeEach(async () => {
  const living = await plane.sql<{ id: string }[]>`select id from nodes where state not in ('retired', 'revoked')`;
  for (const { id } of living) await plane.asOperator("POST", `/api/ops/v1/nodes/${id}/revoke`);
});

const VCPUS = 64;
const MEMORY_MIB = 65_536;

/** A ready node with so many GPUs, for machines and to be given away whole. */
async function makeNode(gpus: number, access: "user" | "root" = "user"): Promise<string> {
  const { nodeId } = (await plane.makeNode()).answer;
  const usable = { usable: true, accelerator: "none", note: "" };
  const drivers = [
    { name: "mock", ...usable },
    { name: "host", ...usable, access },
  ];
  await plane.sql.begin(async (tx) => {
    await tx`
      update nodes
      set state = 'ready', version = version + 1, vcpus_total = ${VCPUS}, memory_mib_total = ${MEMORY_MIB}, drivers = ${tx.json(drivers)}
      where id = ${nodeId}
    `;
    await tx`insert into events (id, aggregate_id, aggregate_version, topic, body) values (${`evt_${nodeId}`}, ${nodeId}, 2, 'node.ready', '{}')`;
    await tx`insert into audit_log (actor, action, target_id, target_version, outcome) values ('test', 'node.ready', ${nodeId}, 2, 'succeeded')`;
    for (let index = 0; index < gpus; index += 1)
      await tx`
        insert into gpu_slots (node_id, gpu_uuid, gpu_kind, gpu, state)
        values (${nodeId}, ${`GPU-${nodeId.slice(-12)}-${index}`}, 'h100', ${tx.json({ uuid: `GPU-${nodeId.slice(-12)}-${index}`, index })}, 'available')
      `;
  });
  await plane.sql`insert into node_liveness (node_id, last_seen_at, agent_instance, acked_rev) values (${nodeId}, now(), 'a', 0)`;
  return nodeId;
}

/** Places and commits, as a request does; null where there is no room. */
async function ask(
  driver: "host" | "mock",
  gpus: number,
  labels: Record<string, string> = {},
): Promise<Placement | null> {
  const wish = wishOf({
    ...{ vcpus: 1, memoryMib: 512, gpus: { count: gpus, kind: gpus === 0 ? null : "h100" } },
    ...{ nodeSelector: {}, spreadBy: null, ports: [], bandwidthMbitPerSecond: null },
    labels: { "hostler.dev/driver": driver, ...labels },
  });
  try {
    return await inTransaction(plane.sql, async (tx) => {
      const [placement] = await place(tx, { projectId: "prj_test", wish, count: 1 });
      if (placement === undefined) throw new Error("placed nowhere");
      // What is owned is not free, whoever owns it.
      const uuids = placement.gpus.map(({ uuid }) => uuid);
      await tx`update gpu_slots set state = 'quarantined', reason = 'test' where node_id = ${placement.nodeId} and gpu_uuid = any(${uuids})`;
      return placement;
    });
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "capacity_unavailable") return null;
    throw error;
  }
}

test("bare metal takes all of an empty host with exactly its GPUs, and nothing is placed beside it", async () => {
  const large = await makeNode(4);
  const small = await makeNode(2);
  expect(await ask("host", 3)).toBeNull();
  expect(await ask("host", 2)).toMatchObject({ nodeId: small, vcpus: VCPUS, memoryMib: MEMORY_MIB });
  expect((await ask("mock", 0))?.nodeId).toBe(large);
  // The other one is not empty any more.
  expect(await ask("host", 4)).toBeNull();
  await plane.sql`update node_usage set vcpus = 0, memory_mib = 0 where node_id = ${large}`;
  const whole = await ask("host", 4);
  expect(whole).toMatchObject({ nodeId: large });
  expect(whole?.gpus).toHaveLength(4);
  for (const [driver, gpus] of [
    ["mock", 0],
    ["mock", 1],
    ["host", 0],
    ["host", 2],
  ] as const)
    expect(await ask(driver, gpus)).toBeNull();
});

test("root is wished only of hosts whose operators give it", async () => {
  await makeNode(0);
  const root = { "hostler.dev/host-access": "root" };
  expect(await ask("host", 0, root)).toBeNull();
  const given = await makeNode(0, "root");
  expect((await ask("host", 0, root))?.nodeId).toBe(given);
});

test("of requests for whole hosts and for slices at the same time none shares a host that another has whole", async () => {
  for (let round = 0; round < 4; round += 1) {
    const nodes = await Promise.all([makeNode(2), makeNode(2), makeNode(2)]);
    const wishes = Array.from({ length: 12 }, (_, index) => ((index + round) % 3 === 0 ? "host" : "mock"));
    const asked = wishes.map(async (driver, index) => ({
      driver,
      placed: await ask(driver, driver === "host" ? 2 : index % 2),
    }));
    const placed = (await Promise.all(asked)).filter(({ placed: one }) => one !== null);
    for (const nodeId of nodes) {
      const here = placed.filter((one) => one.placed?.nodeId === nodeId);
      const hosts = here.filter(({ driver }) => driver === "host").length;
      expect([hosts, here.length]).toEqual(hosts === 0 ? [0, here.length] : [1, 1]);
      const [usage] = await plane.sql<{ vcpus: number }[]>`select vcpus from node_usage where node_id = ${nodeId}`;
      expect(usage?.vcpus ?? 0).toBe(hosts === 1 ? VCPUS : here.length);
      await plane.asOperator("POST", `/api/ops/v1/nodes/${nodeId}/revoke`);
    }
    expect(placed.length).toBeGreaterThan(0);
  }
}, 60_000);
