import { AppError } from "@hostler/shared/errors.ts";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import type { JobContext, JobStep } from "./job-kind.ts";
import { makeGate, makeKind, openJobPlane, startJob, step, untilAborted, type JobPlane } from "./test-jobs.ts";

let plane: JobPlane;
beforeAll(async () => void (plane = await openJobPlane()));
afterEach(async () => await plane.stopReplicas());
afterAll(async () => await plane.close());

const nothing = async (): Promise<void> => undefined;

test("a job shows as an operation of its scope and passes its steps in order", async () => {
  const seen: string[] = [];
  const look = async ({ operationId }: JobContext): Promise<void> => {
    const { state, phase, progress } = await plane.operation(operationId);
    seen.push(`${state} ${phase} ${progress}`);
  };
  const kind = makeKind(step("one", look), step("two", look));
  const { operationId } = await startJob(plane.deps, kind, { targetId: "something" });
  expect(await plane.operation(operationId)).toMatchObject({
    kind: kind.kind,
    scope: "system:test",
    projectId: null,
    targetId: "something",
    state: "pending",
    progress: 0,
  });
  await plane.startReplica([kind]);
  expect(await plane.untilState(operationId, "succeeded")).toMatchObject({ progress: 1, error: null });
  expect(seen).toEqual(["running one 0", "running two 0.5"]);
});

test("two replicas never run one job at once, and each job once", async () => {
  const inside = new Set<string>();
  const runs: string[] = [];
  const kind = makeKind(
    step("only", async ({ operationId, sql }) => {
      expect(inside.has(operationId)).toBe(false);
      inside.add(operationId);
      runs.push(operationId);
      await sql`select pg_sleep(0.01)`;
      inside.delete(operationId);
    }),
  );
  await plane.startReplica([kind]);
  await plane.startReplica([kind]);
  const wanted = await Promise.all(
    Array.from({ length: 40 }, async () => (await startJob(plane.deps, kind)).operationId),
  );
  for (const id of wanted) await plane.untilState(id, "succeeded");
  expect(runs.toSorted()).toEqual(wanted.toSorted());
});

test("what comes with the same key while the first is not over is the first", async () => {
  const kind = makeKind(step("only", nothing));
  const first = await startJob(plane.deps, kind, { dedupeKey: "the same" });
  expect(await startJob(plane.deps, kind, { dedupeKey: "the same" })).toEqual({ ...first, isNew: false });
  await plane.startReplica([kind]);
  await plane.untilState(first.operationId, "succeeded");
  expect(await startJob(plane.deps, kind, { dedupeKey: "the same" })).toMatchObject({ isNew: true });
});

test("higher priority goes first", async () => {
  const order: unknown[] = [];
  const kind = makeKind(step("only", async ({ params }) => void order.push(params)));
  for (const priority of [0, 5, 1]) await startJob(plane.deps, kind, { priority, params: { priority } });
  await plane.startReplica([kind], { limits: { atOnceMax: 1 } });
  await waitFor("all three ran", async () => order.length === 3);
  expect(order).toEqual([{ priority: 5 }, { priority: 1 }, { priority: 0 }]);
});

test("a job of a kind that this version does not know is left for one that does", async () => {
  const newer = makeKind(step("only", nothing));
  const { operationId } = await startJob(plane.deps, newer);
  const older = makeKind(step("only", nothing));
  await plane.startReplica([older]);
  const other = await startJob(plane.deps, older);
  await plane.untilState(other.operationId, "succeeded");
  expect((await plane.operation(operationId)).state).toBe("pending");
});

test("a failure that may pass is tried again and shown until then", async () => {
  const gate = makeGate();
  let tries = 0;
  const kind = makeKind(
    step("only", async () => {
      tries += 1;
      if (tries === 1) throw new AppError("service_unavailable", { detail: "Not now." });
      await gate.opened;
    }),
  );
  const { operationId } = await startJob(plane.deps, kind);
  await plane.startReplica([kind]);
  const retrying = await waitFor("it failed once", async () => {
    const operation = await plane.operation(operationId);
    return operation.state === "retrying" && operation;
  });
  expect(retrying.error).toMatchObject({ code: "service_unavailable", phase: "only" });
  gate.open();
  expect(await plane.untilState(operationId, "succeeded")).toMatchObject({ error: null });
  expect(await plane.job(operationId)).toMatchObject({ attempts: 1, crashes: 0 });
});

test("a failure that may pass is not tried for ever", async () => {
  const kind = makeKind(
    step("only", async () => {
      throw new AppError("service_unavailable");
    }),
  );
  const { operationId } = await startJob(plane.deps, kind);
  await plane.sql`update jobs set attempts = 8 where operation_id = ${operationId}`;
  await plane.startReplica([kind]);
  await waitFor("the ninth try failed", async () => (await plane.job(operationId)).attempts === 9);
  await plane.sql`update jobs set run_at = now() where operation_id = ${operationId}`;
  expect((await plane.untilState(operationId, "failed")).error).toMatchObject({ code: "service_unavailable" });
  expect(await plane.job(operationId)).toMatchObject({ state: "failed", attempts: 10 });
});

test("what nobody expected fails at once, with its step and reason", async () => {
  const kind = makeKind(
    step("fine", nothing),
    step("broken", async () => {
      throw new TypeError("a bug");
    }),
  );
  const { operationId } = await startJob(plane.deps, kind);
  await plane.startReplica([kind]);
  const operation = await plane.untilState(operationId, "failed");
  expect(operation.error).toMatchObject({ code: "internal", message: "a bug", phase: "broken" });
  expect(operation.progress).toBe(0.5);
});

test("a lost database is a failure that may pass", async () => {
  let tries = 0;
  const kind = makeKind(
    step("only", async ({ sql }) => {
      tries += 1;
      if (tries === 1) await sql`select pg_terminate_backend(pg_backend_pid())`;
    }),
  );
  const { operationId } = await startJob(plane.deps, kind);
  await plane.startReplica([kind]);
  await plane.untilState(operationId, "succeeded");
  expect(await plane.job(operationId)).toMatchObject({ attempts: 1, crashes: 0 });
});

test("a step out of time is a failure that may pass, whether it hears of it or not", async () => {
  for (const hears of [true, false]) {
    let tries = 0;
    const slow: JobStep = {
      name: "slow",
      timeoutMs: 50,
      run: async ({ signal }) => {
        tries += 1;
        if (tries === 1) await (hears ? untilAborted(signal) : new Promise(() => undefined));
      },
    };
    const kind = makeKind(slow);
    const { operationId } = await startJob(plane.deps, kind);
    await plane.startReplica([kind], { limits: { graceMs: 50 } });
    await plane.untilState(operationId, "succeeded");
    expect(await plane.job(operationId)).toMatchObject({ attempts: 1, crashes: 0 });
  }
});
