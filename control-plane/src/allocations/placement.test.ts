import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import { startTestPlane, type TestPlane } from "../nodes/test-plane.ts";
import { place } from "./placement.ts";
import { wishOf, type Wished } from "./wish-of.ts";

let plane: TestPlane;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());
beforeEach(async () => {
  const living = await plane.sql<{ id: string }[]>`select id from nodes where state not in ('retired', 'revoked')`;
  for (const { id } of living) await plane.asOperator("POST", `/api/ops/v1/nodes/${id}/revoke`);
});

/** A ready node that was just heard, with so many processors for mock slices. */
async function makeNode(vcpus: number): Promise<string> {
  const { nodeId } = (await plane.makeNode()).answer;
  const drivers = [{ name: "mock", usable: true, accelerator: "none", note: "" }];
  await plane.sql.begin(async (tx) => {
    await tx`
      update nodes
      set state = 'ready', version = version + 1, vcpus_total = ${vcpus}, memory_mib_total = ${vcpus * 1024}, drivers = ${tx.json(drivers)}
      where id = ${nodeId}
    `;
    await tx`insert into events (id, aggregate_id, aggregate_version, topic, body) values (${`evt_${nodeId}`}, ${nodeId}, 2, 'node.ready', '{}')`;
    await tx`insert into audit_log (actor, action, target_id, target_version, outcome) values ('test', 'node.ready', ${nodeId}, 2, 'succeeded')`;
  });
  await plane.sql`insert into node_liveness (node_id, last_seen_at, agent_instance, acked_rev) values (${nodeId}, now(), 'a', 0)`;
  return nodeId;
}

const placeSlices = async (tx: Tx, count: number, network: Partial<Wished> = {}): Promise<string[]> => {
  const labels = { "hostler.dev/driver": "mock" };
  const size = { vcpus: 1, memoryMib: 512, gpus: { count: 0, kind: null } };
  const plain = { nodeSelector: {}, spreadBy: null, ports: [], bandwidthMbitPerSecond: null };
  const wish = wishOf({ ...size, ...plain, labels, ...network });
  const placements = await place(tx, { projectId: "prj_test", wish, count });
  return placements.map(({ nodeId }) => nodeId);
};

test("a request passes over the node that another one holds, also for a part of a gang", async () => {
  const fullest = await makeNode(2);
  const roomy = await makeNode(64);
  await inTransaction(plane.sql, async (first) => {
    expect(await placeSlices(first, 1)).toEqual([fullest]);
    expect(await inTransaction(plane.sql, async (tx) => await placeSlices(tx, 1))).toEqual([roomy]);
    expect(await inTransaction(plane.sql, async (tx) => await placeSlices(tx, 3))).toEqual([roomy, roomy, roomy]);
  });
});

test("a request that fits nowhere else waits for the node and takes what is left of it", async () => {
  const only = await makeNode(2);
  const holding = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  const first = inTransaction(plane.sql, async (tx) => {
    await placeSlices(tx, 1);
    held.resolve();
    await holding.promise;
  });
  await held.promise;
  const second = inTransaction(plane.sql, async (tx) => await placeSlices(tx, 1));
  // Expected before it can fail: it may come before the second.
  const third = expect(inTransaction(plane.sql, async (tx) => await placeSlices(tx, 2))).rejects.toMatchObject({
    code: "capacity_unavailable",
  });
  holding.resolve();
  await first;
  expect(await second).toEqual([only]);
  await third;
});

test("a slice with ports or a limit of bandwidth goes to no agent that is too old for it, and the refusal says so", async () => {
  const old = await makeNode(2);
  await plane.sql`update nodes set protocol_version = 5 where id = ${old}`;
  await inTransaction(plane.sql, async (tx) => {
    expect(await placeSlices(tx, 1)).toEqual([old]);
    for (const network of [{ ports: [{ protocol: "tcp", port: 80 } as const] }, { bandwidthMbitPerSecond: 10 }])
      await expect(tx.savepoint(async (inner) => await placeSlices(inner, 1, network))).rejects.toMatchObject({
        code: "capacity_unavailable",
        message: expect.stringContaining("its agent speaks version 5 of the protocol") as string,
      });
  });
  const fresh = await makeNode(2);
  await inTransaction(plane.sql, async (tx) => {
    expect(await placeSlices(tx, 1, { bandwidthMbitPerSecond: 10 })).toEqual([fresh]);
  });
});
