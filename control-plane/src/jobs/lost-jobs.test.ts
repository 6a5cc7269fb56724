import { isAppError } from "@hostler/shared/errors.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import { inTransaction } from "../db/transaction.ts";
import { redriveJob } from "./redrive-job.ts";
import { endLapsedJobs } from "./run-jobs.ts";
import { claimJobs, readJobs } from "./store.ts";
import { makeGate, makeKind, openJobPlane, startJob, step, untilAborted, type JobPlane } from "./test-jobs.ts";

let plane: JobPlane;
beforeAll(async () => {
  plane = await openJobPlane();
  await plane.sql`create table test_effects (operation_id text not null, what text not null)`;
});
afterEach(async () => await plane.stopReplicas());
afterAll(async () => await plane.close());

const nothing = async (): Promise<void> => undefined;

test("a lost replica's job goes on at its step under a higher fence, and what the lost one still writes is refused", async () => {
  const gate = makeGate();
  const ones: string[] = [];
  const twos: string[] = [];
  const refused: unknown[] = [];
  const kind = makeKind(
    step("one", async ({ fence }) => void ones.push(fence)),
    step("two", async ({ fence, operationId, commit }) => {
      const isLost = twos.push(fence) === 1;
      if (isLost) await gate.opened;
      const what = isLost ? "of the lost" : "of the other";
      await commit(async (tx) => await tx`insert into test_effects values (${operationId}, ${what})`).catch(
        (error: unknown) => {
          refused.push(error);
          throw error;
        },
      );
    }),
  );
  const { operationId } = await startJob(plane.deps, kind);
  const stopLost = await plane.startReplica([kind], { isFrozen: true });
  await waitFor("the first replica is in the second step", async () => twos.length === 1);
  await plane.expireLease(operationId);
  await plane.startReplica([kind]);
  const done = await plane.untilState(operationId, "succeeded");
  gate.open();
  await waitFor("the lost one went on", async () => refused.length === 1);
  await stopLost();
  expect(isAppError(refused[0], "lease_stale")).toBe(true);
  expect(ones).toHaveLength(1);
  expect(Number(twos[1])).toBeGreaterThan(Number(twos[0]));
  expect(await plane.sql`select what from test_effects where operation_id = ${operationId}`).toEqual([
    { what: "of the other" },
  ]);
  expect(await plane.operation(operationId)).toEqual(done);
});

test("a lost replica can neither write nor end a job that another one has", async () => {
  const gates = [makeGate(), makeGate()];
  const refused: unknown[] = [];
  let runs = 0;
  const kind = makeKind(
    step("only", async ({ operationId, commit }) => {
      runs += 1;
      const run = runs;
      await gates[run - 1]?.opened;
      const written = commit(async (tx) => await tx`insert into test_effects values (${operationId}, 'written')`);
      // The lost one goes on as if it had written.
      if (run === 1) await written.catch((error: unknown) => refused.push(error));
      else await written;
    }),
  );
  const { operationId } = await startJob(plane.deps, kind);
  const stopLost = await plane.startReplica([kind], { isFrozen: true });
  await waitFor("the first replica runs it", async () => runs === 1);
  await plane.expireLease(operationId);
  await plane.startReplica([kind]);
  await waitFor("the second replica runs it", async () => runs === 2);
  gates[0]?.open();
  await stopLost();
  expect(refused).toMatchObject([{ code: "lease_stale" }]);
  expect((await plane.operation(operationId)).state).toBe("running");
  gates[1]?.open();
  await plane.untilState(operationId, "succeeded");
});

test("a grant after a failover has another fence than every grant before it, also when the sequence went back", async () => {
  const { sql } = plane;
  const kind = makeKind(step("only", async () => undefined));
  const { operationId } = await startJob(plane.deps, kind);
  const claim = async (): Promise<bigint> => {
    await sql`update jobs set state = 'ready', lease_until = null where operation_id = ${operationId}`;
    const wanted = { kinds: [kind.kind], limit: 1, leaseMs: 60_000 };
    const [job] = await inTransaction(sql, async (tx) => await claimJobs(tx, wanted));
    return BigInt(job?.fence ?? 0);
  };
  await sql`select setval('fence_seq', 1000)`;
  const before = await claim();
  await sql`update fence_epoch set history = 'of the primary before'`;
  await sql`select setval('fence_seq', 1)`;
  expect((await claim()) > before).toBe(true);
});

test("three workers lost in one step make a dead letter, which is done again as a new operation without the steps that ended", async () => {
  const runs: string[] = [];
  const kind = makeKind(
    step("one", async () => void runs.push("one")),
    step("two", async ({ signal }) => {
      runs.push("two");
      if (runs.length === 2) await untilAborted(signal);
    }),
  );
  const { operationId } = await startJob(plane.deps, kind, {
    dedupeKey: "poison",
    targetId: "a thing",
    params: { a: 1 },
  });
  await plane.startReplica([kind], { isFrozen: true });
  await waitFor("the first worker is in the second step", async () => runs.length === 2);
  await plane.expireLease(operationId);
  await endLapsedJobs(plane.deps);
  await plane.loseWorker(kind, operationId);
  expect(await plane.job(operationId)).toMatchObject({ state: "ready", crashes: 2, attempts: 0 });
  await plane.loseWorker(kind, operationId);

  const reason = "Its worker was lost 3 times in the same phase.";
  expect(await plane.job(operationId)).toMatchObject({ state: "dead", step: "two", crashes: 3, reason });
  const operation = await plane.operation(operationId);
  expect(operation).toMatchObject({ state: "failed", error: { code: "dead_letter", message: reason, phase: "two" } });
  const dead = await readJobs(plane.sql, { state: "dead", after: null, limit: 10 });
  expect(dead.map((job) => job.operationId)).toContain(operationId);

  const redrive = { ...plane.deps, kinds: [kind] };
  const call = { operationId, actor: "prn_somebody", requestId: "req_x" };
  const again = await redriveJob(redrive, call);
  expect(again).toMatchObject({ kind: kind.kind, targetId: "a thing", state: "pending" });
  await expect(redriveJob(redrive, call)).rejects.toMatchObject({ code: "operation_state_conflict" });
  await plane.startReplica([kind]);
  await plane.untilState(again.id, "succeeded");
  expect(runs).toEqual(["one", "two", "two"]);
  expect((await plane.operation(operationId)).state).toBe("failed");
  expect((await plane.job(operationId)).redrivenAs).toBe(again.id);
  await expect(redriveJob(redrive, { ...call, operationId: again.id })).rejects.toMatchObject({
    code: "operation_state_conflict",
  });
});

test("crashes are counted anew once a step has ended", async () => {
  const kind = makeKind(step("one", nothing), step("two", nothing));
  const { operationId } = await startJob(plane.deps, kind);
  await plane.loseWorker(kind, operationId);
  await plane.loseWorker(kind, operationId);
  await plane.sql`update jobs set run_at = now() where operation_id = ${operationId}`;
  await plane.startReplica([kind]);
  await plane.untilState(operationId, "succeeded");
  expect(await plane.job(operationId)).toMatchObject({ crashes: 2 });
});

test("a replica that stops gives its job back, and that is neither a failure nor a crash", async () => {
  const fences: string[] = [];
  const kind = makeKind(
    step("only", async ({ signal, fence }) => {
      if (fences.push(fence) === 1) await untilAborted(signal);
    }),
  );
  const { operationId } = await startJob(plane.deps, kind);
  const stop = await plane.startReplica([kind]);
  await waitFor("it runs", async () => fences.length === 1);
  await stop();
  expect(await plane.job(operationId)).toMatchObject({ state: "ready", attempts: 0, crashes: 0 });
  await plane.startReplica([kind]);
  await plane.untilState(operationId, "succeeded");
  expect(Number(fences[1])).toBeGreaterThan(Number(fences[0]));
});

test("a replica that cannot renew its lease stops before the lease ends", async () => {
  let reason: unknown;
  const kind = makeKind(
    step("only", async ({ signal }) => {
      if (reason !== undefined) return;
      await plane.sql`alter table jobs rename to jobs_away`;
      await untilAborted(signal).catch((error: unknown) => (reason = error));
      await plane.sql`alter table jobs_away rename to jobs`;
      throw reason;
    }),
  );
  const { operationId } = await startJob(plane.deps, kind);
  await plane.startReplica([kind], { limits: { leaseMs: 1000, renewMs: 100, marginMs: 300 } });
  await plane.untilState(operationId, "succeeded");
  expect(String(reason)).toContain("out_of_touch");
  expect(await plane.job(operationId)).toMatchObject({ attempts: 1 });
});

test("after an outage of the database no lease ends because of it", async () => {
  const { sql } = plane;
  const kind = makeKind(step("only", async () => undefined));
  const { operationId } = await startJob(plane.deps, kind);
  await inTransaction(sql, async (tx) => await claimJobs(tx, { kinds: [kind.kind], limit: 1, leaseMs: 60_000 }));
  let shiftMs = 0;
  const clock = { ...systemClock, monotonicMs: () => systemClock.monotonicMs() + shiftMs };
  const beat = makeKind(step("only", async () => undefined));
  await plane.startReplica([], { clock, schedules: [{ kind: beat, everyMs: 3_600_000, jitterMs: 0 }] });
  await waitFor("its first round", async () => (await sql`select from jobs where kind = ${beat.kind}`).length > 0);
  await inTransaction(sql, async (tx) => {
    await tx`lock table job_schedules in access exclusive mode`;
    await waitFor("the replica waits for the database", async () => {
      const waiting =
        await sql`select from pg_stat_activity where wait_event_type = 'Lock' and query like '%job_schedules%'`;
      return waiting.length > 0;
    });
    await tx`update jobs set lease_until = now() - interval '1 second' where operation_id = ${operationId}`;
    shiftMs = 6000;
  });
  await waitFor("the lease is prolonged", async () => {
    const rows = await sql`select from jobs where operation_id = ${operationId} and lease_until > now()`;
    return rows.length > 0;
  });
  expect(await plane.job(operationId)).toMatchObject({ state: "running", crashes: 0 });
});
