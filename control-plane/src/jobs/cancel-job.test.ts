import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import { inTransaction } from "../db/transaction.ts";
import { cancelJob } from "./cancel-job.ts";
import { wakeForJob } from "./enqueue-job.ts";
import { endLapsedJobs } from "./run-jobs.ts";
import { claimJobs } from "./store.ts";
import { makeKind, openJobPlane, startJob, step, untilAborted, type JobPlane } from "./test-jobs.ts";

let plane: JobPlane;
beforeAll(async () => void (plane = await openJobPlane()));
afterEach(async () => await plane.stopReplicas());
afterAll(async () => await plane.close());

const nothing = async (): Promise<void> => undefined;

async function cancel(operationId: string): Promise<boolean> {
  const isCancelled = await inTransaction(plane.sql, async (tx) => await cancelJob(tx, operationId));
  wakeForJob(plane.deps, operationId);
  return isCancelled;
}

test("a waiting job is cancelled at once and never runs", async () => {
  let runs = 0;
  const kind = makeKind(step("only", async () => void (runs += 1)));
  const { operationId } = await startJob(plane.deps, kind);
  expect(await cancel(operationId)).toBe(true);
  expect((await plane.operation(operationId)).state).toBe("cancelled");
  await plane.startReplica([kind]);
  const other = await startJob(plane.deps, kind);
  await plane.untilState(other.operationId, "succeeded");
  expect(runs).toBe(1);
  expect(await cancel(other.operationId)).toBe(false);
});

test("a running job hears that it is cancelled and does no further step, also one that does not listen", async () => {
  for (const hears of [true, false]) {
    let isRunning = false;
    let further = 0;
    const kind = makeKind(
      step("one", async ({ signal }) => {
        isRunning = true;
        await (hears ? untilAborted(signal) : new Promise(() => undefined));
      }),
      step("two", async () => void (further += 1)),
    );
    const { operationId } = await startJob(plane.deps, kind);
    await plane.startReplica([kind], { limits: { graceMs: 50 } });
    await waitFor("it runs", async () => isRunning);
    expect(await cancel(operationId)).toBe(true);
    expect(await plane.untilState(operationId, "cancelled")).toMatchObject({ error: null });
    expect(further).toBe(0);
  }
});

test("a job to be cancelled whose worker is lost is cancelled and not tried again", async () => {
  const kind = makeKind(step("only", nothing));
  const { operationId } = await startJob(plane.deps, kind);
  await inTransaction(plane.sql, async (tx) => await claimJobs(tx, { kinds: [kind.kind], limit: 1, leaseMs: 60_000 }));
  expect(await cancel(operationId)).toBe(true);
  expect((await plane.job(operationId)).state).toBe("running");
  await plane.expireLease(operationId);
  await endLapsedJobs(plane.deps);
  expect((await plane.job(operationId)).state).toBe("cancelled");
});
