import { afterAll, beforeAll, expect, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import { recordChange } from "../audit/record-change.ts";
import { inTransaction } from "../db/transaction.ts";
import { syncIncidents } from "../incidents/sync-incidents.ts";
import type { JobKind } from "./job-kind.ts";
import { maintenanceJobs } from "./maintenance-jobs.ts";
import { openJobPlane, startJob, type JobPlane } from "./test-jobs.ts";

let plane: JobPlane;
beforeAll(async () => void (plane = await openJobPlane()));
afterAll(async () => await plane.close());

function kindOf(name: string): JobKind {
  return maintenanceJobs({}).kinds.find(({ kind }) => kind === name) ?? expect.fail(`there is no kind ${name}`);
}
async function runNow(name: string): Promise<string> {
  const kind = kindOf(name);
  const stop = await plane.startReplica([kind]);
  const { operationId } = await startJob(plane.deps, kind);
  await waitFor(`${name} ended`, async () => (await plane.operation(operationId)).state === "succeeded");
  await stop();
  return operationId;
}

test("partitions are made ahead and dropped past their time", async () => {
  const { sql } = plane;
  await sql`create table telemetry_samples_20200101 partition of telemetry_samples for values from ('2020-01-01') to ('2020-01-02')`;
  const partitions = async () =>
    (
      await sql<{ name: string }[]>`
        select inhrelid::regclass::text as name from pg_inherits where inhparent = 'telemetry_samples'::regclass order by 1
      `
    ).map((row) => row.name);
  const before = await partitions();
  const [newest = ""] = before.toReversed();
  await sql`drop table ${sql(newest)}`;
  await runNow("storage.partitions");
  expect(await partitions()).toEqual(before.filter((name) => name !== "telemetry_samples_20200101"));
});

test("idempotency keys are forgotten after a day, and not before", async () => {
  const { sql } = plane;
  await sql`insert into principals (id, kind, name) values ('prn_x', 'api_key', 'x')`;
  await sql`
    insert into idempotency_keys (principal_id, key, request_hash, created_at)
    values ('prn_x', 'old', '', now() - interval '25 hours'), ('prn_x', 'new', '', now() - interval '23 hours')
  `;
  await runNow("storage.expire");
  expect(await sql`select key from idempotency_keys`).toEqual([{ key: "new" }]);
});

test("incidents of a host that left the fleet are closed, those of the others stay", async () => {
  const { sql, deps } = plane;
  for (const state of ["ready", "retired"]) {
    const nodeId = `node_${state}`;
    const incident = { kind: "slice.gone", severity: "critical", aboutId: nodeId, detail: "as the test says" } as const;
    await inTransaction(sql, async (tx) => {
      await tx`insert into nodes (id, name, state, protocol_version, agent_version) values (${nodeId}, ${nodeId}, ${state}, 3, 'test')`;
      await recordChange(tx, deps.clock, {
        actor: "system:test",
        topic: `node.${state}`,
        targetId: nodeId,
        targetVersion: 1,
        projectId: null,
        requestId: null,
        body: {},
      });
      const seen = [{ ...incident, key: `slice/${nodeId}`, nodeId }];
      await syncIncidents(tx, deps, { source: `slices:${nodeId}`, seen, undecided: [], escalateAfterMs: 60_000 });
    });
  }
  await runNow("storage.expire");
  expect(await sql`select node_id as id, state from incidents order by node_id`).toEqual([
    { id: "node_ready", state: "open" },
    { id: "node_retired", state: "closed" },
  ]);
});

test("jobs that ended are forgotten with their operations after two weeks, the dead after six, what waits never", async () => {
  const { sql } = plane;
  const ended: string[] = [];
  for (const [state, days] of [
    ["succeeded", 13],
    ["succeeded", 15],
    ["dead", 41],
    ["dead", 43],
    ["ready", 100],
  ] as const) {
    const { operationId } = await startJob(plane.deps, kindOf("storage.partitions"));
    ended.push(operationId);
    await sql`
      update jobs set state = ${state}, ended_at = case when ${state} = 'ready' then null else now() - ${days} * interval '1 day' end
      where operation_id = ${operationId}
    `;
    const shown = state === "ready" ? "pending" : state === "dead" ? "failed" : state;
    await sql`update operations set state = ${shown} where id = ${operationId}`;
  }
  await runNow("storage.expire");
  const [fresh, , letter, , waiting] = ended;
  const left = async (table: string, id: string): Promise<unknown[]> =>
    (await sql`select ${sql(id)} as id from ${sql(table)} where ${sql(id)} = any(${ended}) order by 1`).map(
      (row) => row["id"],
    );
  expect(await left("jobs", "operation_id")).toEqual([fresh, letter, waiting]);
  expect(await left("operations", "id")).toEqual([fresh, letter, waiting]);
});
