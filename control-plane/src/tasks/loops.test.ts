import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { pino } from "pino";
import { afterAll, beforeAll, expect, test } from "vitest";
import { inTransaction } from "../db/transaction.ts";
import type { WakeBus } from "../db/wake-bus.ts";
import { startTestPlane, type TestPlane } from "../nodes/test-plane.ts";
import { enqueueTask } from "./enqueue-task.ts";
import { endLeases } from "./loops.ts";

const log = pino({ level: "silent" });
const wake = { wake: () => undefined } as unknown as WakeBus;
let plane: TestPlane;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());

async function lastHeardOfReplica(seconds: number): Promise<void> {
  await plane.sql`delete from liveness_flushes`;
  await plane.sql`
    insert into liveness_flushes (replica_id, flushed_at, steady_since)
    values ('lost', now() - make_interval(secs => ${seconds}), now() - interval '1 hour')
  `;
}

test("no lease ends within a minute of a replica that was lost, and it ends afterwards", async () => {
  const { nodeId } = (await plane.makeNode()).answer;
  const targetId = newId("allocation", systemClock);
  const deps = { sql: plane.sql, clock: systemClock, wake, log };
  await inTransaction(plane.sql, async (tx) => {
    const params = { allocationId: targetId, generation: 1, driver: "mock" } as const;
    const task = {
      nodeId,
      kind: "slice.vm_release",
      params,
      targetId,
      operationId: null,
      expiresInMs: 60_000,
    } as const;
    await enqueueTask(tx, deps, task);
  });
  await plane.sql`
    update tasks set state = 'leased', fence = 1, attempt = 1, lease_until = now() - interval '1 second' where target_id = ${targetId}
  `;
  for (const seconds of [6, 64]) {
    await lastHeardOfReplica(seconds);
    expect(await endLeases(deps)).toBe(0);
  }
  // One that is heard says nothing against it, nor does one that was lost long ago.
  await lastHeardOfReplica(66);
  expect(await endLeases(deps)).toBe(1);
});
