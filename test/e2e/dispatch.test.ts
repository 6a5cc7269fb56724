import type { ApiClient } from "@hostler/cli/api-client.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ownedSlots, readAllocation, requestRelease, requestSlice } from "../../deploy/demo/journey.ts";
import { openEmbeddedDatabase } from "../support/embedded-database.ts";
import { makeScriptedNode, type ScriptedNode } from "../support/scripted-node.ts";
import { startTenantedPlane, type TenantedPlane } from "../support/tenanted-plane.ts";
import { waitFor } from "../support/wait-for.ts";

/** Leases, fences and results, with a scripted agent on the real protocol. */
const never = new AbortController().signal;
let started: TenantedPlane;
let plane: TenantedPlane["plane"];
let operator: ApiClient;
let projectId: string;
let node: ScriptedNode;
let other: ScriptedNode;
let sql: Sql;
let serial = 0;

beforeAll(async () => {
  started = await startTenantedPlane();
  ({ plane, operator, projectId } = started);
  await operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  sql = await openEmbeddedDatabase(started.stateDir);
  const common = { operator, server: plane.ready.enrolUrl.replace("https://", ""), folder: started.folder };
  node = await makeScriptedNode({ ...common, name: "alpha", gpus: 8 });
  other = await makeScriptedNode({ ...common, name: "beta", gpus: 0 });
});
afterAll(async () => {
  await node?.close();
  await other?.close();
  await sql?.end();
  await started?.close();
});

async function request(gpus = 1): Promise<Allocation> {
  serial += 1;
  return await requestSlice(operator, {
    projectId,
    name: `s-${serial}`,
    image: "tiny",
    gpus,
    labels: { "hostler.dev/driver": "mock" },
  });
}

/** Ends the lease as time would, by the database's clock, and waits until it is noticed. */
async function lapse(taskId: string): Promise<void> {
  await sql`update tasks set lease_until = now() - interval '1 second' where id = ${taskId}`;
  await waitFor(
    "the lapse",
    async () => (await sql`select from tasks where id = ${taskId} and state = 'ready'`).length === 1,
  );
}

async function giveBack(allocation: Allocation): Promise<void> {
  await requestRelease(operator, allocation.id);
  const task = await node.takeTask();
  await node.send(task.claims.jti, await node.resultOf(task, "succeeded"));
  expect((await readAllocation(operator, allocation.id)).state).toBe("released");
}

describe("a poll that waits", () => {
  test("is answered by the request that makes its task, in that transaction and under a lease", async () => {
    // Nothing outside of the process shows that a poll waits.
    for (const pauseMs of [200, 1000, 5000]) {
      const polled = node.poll({ credit: 1, waitMs: 20_000, number: 1 });
      await systemClock.sleep(pauseMs, never);
      const allocation = await request();
      const jws = (await polled).tasks[0]?.jws ?? "";
      const claims = await node.identity.verifyTask(jws);
      expect(claims).toMatchObject({ kind: "slice.vm_provision", attempt: 1 });
      const [row] = await sql<{ isOneTransaction: boolean; isLeased: boolean }[]>`
        select t.xmin = a.xmin as "isOneTransaction", t.lease_until > now() as "isLeased"
        from tasks t
        join allocations a on a.id = t.target_id
        where t.id = ${claims.jti}
      `;
      await node.send(claims.jti, await node.resultOf({ jws, claims }, "succeeded"));
      await giveBack(allocation);
      expect(row?.isLeased).toBe(true);
      if (row?.isOneTransaction === true) return;
    }
    throw new Error("its task was granted in a transaction of its own, three times");
  });

  test("and whose host is gone leaves its task to the next", async () => {
    const gone = new AbortController();
    const lost = node.poll({ credit: 1, waitMs: 20_000 }, gone.signal);
    lost.catch(() => "gone");
    await systemClock.sleep(200, never);
    gone.abort();
    const allocation = await request();
    const task = await node.takeTask();
    await node.send(task.claims.jti, await node.resultOf(task, "succeeded"));
    expect((await readAllocation(operator, allocation.id)).state).toBe("active");
    await giveBack(allocation);
  });
});

describe("a lease", () => {
  test("that lapses is handed out again with a higher fence, and its former holder is refused", async () => {
    const allocation = await request();
    const first = await node.takeTask();
    await lapse(first.claims.jti);
    const second = await node.takeTask();
    expect(second.claims.jti).toBe(first.claims.jti);
    expect(BigInt(second.claims.fence)).toBeGreaterThan(BigInt(first.claims.fence));
    expect(second.claims.seq).toBeGreaterThan(first.claims.seq);

    const staleProgress = node.client.sendProgress({
      taskId: first.claims.jti,
      fence: first.claims.fence,
      events: [],
      signal: never,
    });
    await expect(staleProgress).rejects.toMatchObject({ code: "lease_stale" });
    await expect(node.send(first.claims.jti, await node.resultOf(first, "succeeded"))).rejects.toMatchObject({
      code: "lease_stale",
    });
    expect((await readAllocation(operator, allocation.id)).state).not.toBe("active");

    await node.send(second.claims.jti, await node.resultOf(second, "succeeded"));
    expect((await readAllocation(operator, allocation.id)).state).toBe("active");
    await giveBack(allocation);
  });

  test("of a grant that was lost on the way is free at the next poll, which says what came last", async () => {
    const allocation = await request();
    const given = await node.poll({ credit: 1, waitMs: 5000, number: 1 });
    const lost = { claims: await node.identity.verifyTask(given.tasks[0]?.jws ?? "") };
    const takenSeq = lost.claims.seq - 1;
    // It may be on its way, and this poll the one that comes late.
    expect((await node.poll({ credit: 1, takenSeq, number: 1 })).tasks).toEqual([]);
    const { tasks } = await node.poll({ credit: 1, takenSeq, number: 2 });
    const again = await node.identity.verifyTask(tasks[0]?.jws ?? "");
    expect(again.jti).toBe(lost.claims.jti);
    expect(BigInt(again.fence)).toBeGreaterThan(BigInt(lost.claims.fence));
    // What did come stays with its holder.
    expect((await node.poll({ credit: 1, takenSeq: again.seq, number: 3 })).tasks).toEqual([]);
    const jws = tasks[0]?.jws ?? "";
    await node.send(again.jti, await node.resultOf({ jws, claims: again }, "succeeded"));
    expect((await readAllocation(operator, allocation.id)).state).toBe("active");
    await giveBack(allocation);
  });

  test("is renewed by a poll that names it, and a poll with another fence is told that it is stale", async () => {
    const allocation = await request();
    const { claims, jws } = await node.takeTask();
    await sql`update tasks set lease_until = lease_until - interval '5 seconds' where id = ${claims.jti}`;
    const before = await leaseOf(claims.jti);
    const running = [{ taskId: claims.jti, fence: claims.fence, phase: null }];
    expect((await node.poll({ running })).stale).toEqual([]);
    expect(await leaseOf(claims.jti)).toBeGreaterThan(before);
    expect((await node.poll({ running: [{ taskId: claims.jti, fence: "1", phase: null }] })).stale).toEqual([
      claims.jti,
    ]);
    await node.send(claims.jti, await node.resultOf({ claims, jws }, "succeeded"));
    await giveBack(allocation);
  });

  test("of an agent that restarted is free at once", async () => {
    const allocation = await request();
    const first = await node.takeTask();
    const answer = await node.poll({ agentInstance: "alpha-restarted", credit: 1, waitMs: 3000 });
    expect(answer.tasks).toHaveLength(1);
    const second = {
      jws: answer.tasks[0]?.jws ?? "",
      claims: await node.identity.verifyTask(answer.tasks[0]?.jws ?? ""),
    };
    expect(second.claims.jti).toBe(first.claims.jti);
    await node.send(second.claims.jti, await node.resultOf(second, "succeeded"));
    await node.poll();
    await giveBack(allocation);
  });
});

describe("a result", () => {
  test("counts once, however often it is sent", async () => {
    const allocation = await request();
    const task = await node.takeTask();
    const result = await node.resultOf(task, "succeeded");
    await Promise.all([
      node.send(task.claims.jti, result),
      node.send(task.claims.jti, result),
      node.send(task.claims.jti, result),
    ]);
    const events = await sql`select from events where aggregate_id = ${allocation.id} and topic = 'allocation.active'`;
    expect(events).toHaveLength(1);
    await giveBack(allocation);
  });

  test("that is altered, of another node or for another grant is refused", async () => {
    const allocation = await request();
    const task = await node.takeTask();
    const good = await node.resultOf(task, "succeeded");
    const altered = `${good.slice(0, -8)}${good.endsWith("AAAAAAAA") ? "BBBBBBBB" : "AAAAAAAA"}`;
    await expect(node.send(task.claims.jti, altered)).rejects.toMatchObject({ code: "result_invalid" });
    await expect(other.send(task.claims.jti, await other.resultOf(task, "succeeded"))).rejects.toMatchObject({
      code: "lease_stale",
    });
    await expect(other.send(task.claims.jti, good)).rejects.toMatchObject({ code: "result_invalid" });
    await expect(
      node.send(task.claims.jti, await node.resultOf({ ...task, jws: `${task.jws}x` }, "succeeded")),
    ).rejects.toMatchObject({ code: "result_invalid" });
    await node.send(task.claims.jti, good);
    await giveBack(allocation);
  });
});

test("a slice released before any host took it is gone at once and its task never comes", async () => {
  const allocation = await request();
  await requestRelease(operator, allocation.id);
  expect((await readAllocation(operator, allocation.id)).state).toBe("released");
  expect((await node.poll({ credit: 1 })).tasks).toEqual([]);
});

test("forty requests at once for eight GPUs leave exactly eight owned", async () => {
  const outcomes = await Promise.allSettled(Array.from({ length: 40 }, async () => await request()));
  const made = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
  expect(made).toHaveLength(8);
  expect(await ownedSlots(operator, node.nodeId)).toBe(8);
  expect(new Set(made.flatMap((allocation) => allocation.gpus.map((gpu) => gpu.uuid))).size).toBe(8);
  for (const allocation of made) await requestRelease(operator, allocation.id);
  expect(await ownedSlots(operator, node.nodeId)).toBe(0);
});

describe("the database itself refuses", () => {
  test("a state change without its event and audit row", async () => {
    const allocation = await request();
    const change = sql`update allocations set state = 'provisioning', version = version + 1 where id = ${allocation.id}`;
    await expect(change).rejects.toThrow(/no event/);
    await requestRelease(operator, allocation.id);
  });

  test("a slot for an allocation in a final state", async () => {
    const allocation = await request();
    await requestRelease(operator, allocation.id);
    const claim = sql`update gpu_slots set state = 'owned', allocation_id = ${allocation.id} where node_id = ${node.nodeId} and gpu_uuid = 'GPU-alpha-0'`;
    await expect(claim).rejects.toThrow(/final state/);
  });

  test("to change or delete what happened", async () => {
    for (const table of ["audit_log", "events"]) {
      await expect(sql.unsafe(`delete from ${table}`)).rejects.toThrow(/append-only/);
      await expect(sql.unsafe(`update ${table} set at = now()`)).rejects.toThrow(/append-only/);
      await expect(sql.unsafe(`truncate ${table} cascade`)).rejects.toThrow(/append-only/);
    }
  });
});

async function leaseOf(taskId: string): Promise<number> {
  const [row] = await sql<{ until: Date }[]>`select lease_until as until from tasks where id = ${taskId}`;
  return row?.until.getTime() ?? 0;
}
