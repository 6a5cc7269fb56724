import type { ApiClient } from "@hostler/cli/api-client.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { allocationOperationSchema, type Allocation } from "@hostler/shared/api/allocations.ts";
import { operationSchema, type Operation } from "@hostler/shared/api/common.ts";
import { apiKeyCreatedSchema } from "@hostler/shared/api/identity.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import * as z from "zod";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readAllocation, requestRelease, requestSlice } from "../../deploy/demo/journey.ts";
import { clientFor } from "../../deploy/demo/local-cloud.ts";
import { openEmbeddedDatabase } from "../support/embedded-database.ts";
import { runHostler } from "../support/run-hostler.ts";
import { makeScriptedNode, type ScriptedNode } from "../support/scripted-node.ts";
import { startTenantedPlane, type TenantedPlane } from "../support/tenanted-plane.ts";
import { waitFor } from "../support/wait-for.ts";

/** Operations of tenants and of the control plane itself, through the API and the command line. */
const OPERATIONS = "/api/common/v1/operations";
const SYSTEM = "/api/ops/v1/operations";

let started: TenantedPlane;
let folder: string;
let plane: TenantedPlane["plane"];
let apiKey: string;
let both: ApiClient;
let member: ApiClient;
let projectId: string;
let node: ScriptedNode;
let sql: Sql;
let serial = 0;

beforeAll(async () => {
  started = await startTenantedPlane();
  ({ folder, plane, apiKey, projectId, operator: both } = started);
  const { publicUrl, enrolUrl } = plane.ready;
  const bindings = [{ role: "member", projectId }];
  const key = await both.post("/api/ops/v1/api-keys", { name: "member", bindings }, apiKeyCreatedSchema);
  member = clientFor(publicUrl, key.secret);
  await both.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  sql = await openEmbeddedDatabase(started.stateDir);
  node = await makeScriptedNode({
    operator: both,
    server: enrolUrl.replace("https://", ""),
    folder,
    name: "alpha",
    gpus: 0,
  });
});
afterAll(async () => {
  await node?.close();
  await sql?.end();
  await started?.close();
});

async function hostler(...args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return await runHostler(args, { home: folder, signIn: { url: plane.ready.publicUrl, apiKey } });
}
async function request(): Promise<Allocation> {
  serial += 1;
  const labels = { "hostler.dev/driver": "mock" };
  return await requestSlice(both, { projectId, name: `s-${serial}`, image: "tiny", gpus: 0, labels });
}
const operationPath = (id: string): string => `${OPERATIONS}/${id}`;
async function newest(path: string): Promise<Operation> {
  const [first] = await both.list(path, operationSchema);
  return first ?? expect.fail(`${path} is empty`);
}
/** The newest job of a kind that comes back by itself; it waits a little after the start, so that not all begin at once. */
async function ownJob(kind: string): Promise<Operation> {
  return await waitFor(`a job ${kind}`, async () => (await both.list(`${SYSTEM}?kind=${kind}`, operationSchema))[0]);
}

describe("the control plane's own work", () => {
  test("is listed for operators, by scope, and does not exist for tenants", async () => {
    const job = await ownJob("storage.partitions");
    expect(job).toMatchObject({ scope: "system:storage", projectId: null, targetId: "system:storage" });
    const listed = await both.list(`${SYSTEM}?scope=system:storage`, operationSchema);
    expect(listed.map((operation) => operation.kind).toSorted()).toEqual(["storage.expire", "storage.partitions"]);
    expect(await both.list(`${SYSTEM}?scope=system:other`, operationSchema)).toEqual([]);

    const refused = { code: "permission_denied" };
    await expect(member.list(SYSTEM, operationSchema)).rejects.toMatchObject(refused);
    await expect(member.list("/api/ops/v1/jobs", z.unknown())).rejects.toMatchObject(refused);
    await expect(member.get(operationPath(job.id), operationSchema)).rejects.toMatchObject({ code: "not_found" });
    await expect(member.post(`${operationPath(job.id)}/cancel`, {}, operationSchema)).rejects.toMatchObject({
      code: "not_found",
    });
    const redrive = member.post(`/api/ops/v1/jobs/${job.id}/redrive`, {}, operationSchema);
    await expect(redrive).rejects.toMatchObject(refused);
    expect(await member.list(`/api/tenant/v1/projects/${projectId}/operations`, operationSchema)).toEqual([]);
  });

  test("is watched to its end from the command line, and is counted in the metrics", async () => {
    const job = await ownJob("storage.partitions");
    await sql`update jobs set run_at = now() where operation_id = ${job.id} and state = 'ready'`;
    const watched = await hostler("operations", "watch", job.id);
    expect(watched).toMatchObject({ code: 0 });
    expect(watched.stdout).toContain("SUCCEEDED");
    expect((await hostler("operations", "show", job.id)).stdout).toContain("100 %");
    const listed = await hostler("operations", "list", "--system", "--state", "SUCCEEDED");
    expect(listed.stdout).toContain(job.id);
    const headers = { authorization: `Bearer ${apiKey}` };
    const metrics = await (await fetch(`${plane.ready.publicUrl}/metrics`, { headers })).text();
    expect(metrics).toMatch(/^hostler_jobs\{state="succeeded"\} [12]$/m);
    expect(metrics).toContain('hostler_jobs{state="dead"} 0');
    expect(metrics).toMatch(/^hostler_jobs_oldest_due_seconds\{\} [\d.]+$/m);
  });

  test("that is dead is found and done again; what waits is cancelled; what has ended is not", async () => {
    const job = await ownJob("storage.expire");
    await sql`update jobs set state = 'dead', reason = 'as the test says', ended_at = now(), lease_until = null where operation_id = ${job.id}`;
    await sql`update operations set state = 'failed' where id = ${job.id}`;
    expect((await hostler("jobs", "dead")).stdout).toContain(job.id);
    const redriven = await hostler("jobs", "redrive", job.id);
    expect(redriven).toMatchObject({ code: 0 });
    const again = redriven.stdout.trim();
    expect(await hostler("operations", "watch", again)).toMatchObject({ code: 0 });
    expect(await hostler("jobs", "redrive", job.id)).toMatchObject({ code: 1 });

    const late = await hostler("operations", "cancel", again);
    expect(late.code).toBe(1);
    expect(late.stderr).toContain("The operation has ended: it is succeeded.");
    await sql`update operations set state = 'pending' where id = ${again}`;
    await sql`update jobs set state = 'ready', run_at = now() + interval '1 hour', ended_at = null where operation_id = ${again}`;
    expect((await hostler("operations", "cancel", again)).stdout).toContain("is CANCELLED");
    expect(await both.get(operationPath(again), operationSchema)).toMatchObject({ state: "cancelled" });
  });
});

describe("a project's operations", () => {
  const list = (query = ""): string => `/api/tenant/v1/projects/${projectId}/operations${query}`;

  test("are listed newest first, in pages, by state, kind and target", async () => {
    const slices = [await request(), await request(), await request()];
    const all = await member.list(list("?limit=2"), operationSchema);
    expect(all.map((operation) => operation.targetId)).toEqual(slices.map((slice) => slice.id).toReversed());
    const [, second] = slices;
    const found = await member.list(
      list(`?targetId=${second?.id}&kind=allocation.provision&state=pending`),
      operationSchema,
    );
    expect(found).toMatchObject([{ targetId: second?.id, projectId, scope: null }]);
    expect(await member.list(list("?state=succeeded"), operationSchema)).toEqual([]);
    await expect(member.list(list("?state=PENDING"), operationSchema)).rejects.toMatchObject({
      code: "validation_failed",
    });
    for (const slice of slices) await requestRelease(both, slice.id);
  });

  test("that no host has begun are cancelled at once, and the slice holds nothing", async () => {
    const slice = await request();
    const operation = await newest(list(`?targetId=${slice.id}`));
    const cancelled = await member.post(`${operationPath(operation.id)}/cancel`, {}, operationSchema);
    expect(cancelled.state).toBe("cancelled");
    expect(await readAllocation(both, slice.id)).toMatchObject({ state: "released" });
    const again = await member.post(`${operationPath(operation.id)}/cancel`, {}, operationSchema);
    expect(again).toEqual(cancelled);
  });

  test("that a host has begun are cancelled when it has undone them", async () => {
    const slice = await request();
    const task = await node.takeTask();
    const operation = await newest(list(`?targetId=${slice.id}`));
    const asked = await member.post(`${operationPath(operation.id)}/cancel`, {}, operationSchema);
    expect(asked.state).not.toBe("cancelled");
    expect(await member.post(`${operationPath(operation.id)}/cancel`, {}, operationSchema)).toEqual(asked);
    await node.send(task.claims.jti, await node.resultOf(task, "cancelled"));
    expect(await member.get(operationPath(operation.id), operationSchema)).toMatchObject({ state: "cancelled" });
    expect(await readAllocation(both, slice.id)).toMatchObject({ state: "released" });
  });

  test("that have built a slice are not cancelled, and giving it back is not either", async () => {
    const slice = await request();
    const task = await node.takeTask();
    await node.send(task.claims.jti, await node.resultOf(task, "succeeded"));
    const built = await newest(list(`?targetId=${slice.id}`));
    await expect(member.post(`${operationPath(built.id)}/cancel`, {}, operationSchema)).rejects.toMatchObject({
      code: "operation_state_conflict",
    });
    expect(await readAllocation(both, slice.id)).toMatchObject({ state: "active" });
    const release = await member.post(`/api/tenant/v1/allocations/${slice.id}/release`, {}, allocationOperationSchema);
    const cancel = member.post(`${operationPath(release.operation.id)}/cancel`, {}, operationSchema);
    await expect(cancel).rejects.toMatchObject({ code: "operation_state_conflict" });
    const last = await node.takeTask();
    await node.send(last.claims.jti, await node.resultOf(last, "succeeded"));
  });
});
