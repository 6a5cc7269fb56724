import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { operationSchema } from "@hostler/shared/api/common.ts";
import { incidentSchema, type Incident } from "@hostler/shared/api/incidents.ts";
import { imageSchema, nodeSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId, shortName } from "@hostler/shared/ids.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  followOperation,
  readAllocation,
  readPhases,
  requestRelease,
  requestSlice,
} from "../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { openEmbeddedDatabase } from "../support/embedded-database.ts";
import { waitFor } from "../support/wait-for.ts";

/** What happens on a host behind the agent's back, on real processes. How long it takes to be seen is printed. */
const MOCK = { "hostler.dev/driver": "mock" };
const figures: string[] = [];
let cloud: TestCloud;
let sql: Sql;
let serial = 0;

beforeAll(async () => {
  cloud = await startTestCloud({ agentArgs: ["--simulate-gpus", "h100x4", "--drivers", "mock"] });
  await cloud.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  sql = await openEmbeddedDatabase(join(cloud.folder, "control-plane"));
});
afterAll(async () => {
  process.stdout.write(`${figures.map((line) => `  ${line}\n`).join("")}`);
  await sql?.end();
  await cloud?.close();
});

async function makeSlice(): Promise<{ readonly allocation: Allocation; readonly folder: string }> {
  serial += 1;
  const { operator, projectId } = cloud;
  const slice = { projectId, name: `slice-${serial}`, image: "tiny", gpus: 1, labels: MOCK };
  const { id } = await requestSlice(operator, slice);
  await followOperation(operator, id, { timeoutMs: 30_000 });
  return { allocation: await readAllocation(operator, id), folder: folderOf(id) };
}

const folderOf = (id: string): string => join(cloud.agentOptions.stateDir, "mock", shortName(id, 1));

async function release(allocation: Allocation): Promise<void> {
  await requestRelease(cloud.operator, allocation.id);
  await followOperation(cloud.operator, allocation.id, { timeoutMs: 30_000 });
}

async function incidentOf(aboutId: string, kind: string, state = "open"): Promise<Incident> {
  const probe = async (): Promise<Incident | undefined> => {
    const all = await cloud.operator.list("/api/ops/v1/incidents?state=all", incidentSchema);
    return all.find((one) => one.aboutId === aboutId && one.kind === kind && one.state === state);
  };
  return await waitFor(`${kind} ${state}`, probe, { timeoutMs: 40_000 });
}

/** Prints the time from what is done to the host until `seen` resolves. */
async function timed<Value>(what: string, seen: () => Promise<Value>): Promise<Value> {
  const startedMs = systemClock.monotonicMs();
  const value = await seen();
  figures.push(`${what}: ${((systemClock.monotonicMs() - startedMs) / 1000).toFixed(1)} s`);
  return value;
}

async function slotOf(uuid: string): Promise<{ readonly state: string; readonly reason: string | null } | undefined> {
  const node = await cloud.operator.get(`/api/ops/v1/nodes/${cloud.node.id}`, nodeSchema);
  return node.slots.find((slot) => slot.gpu.uuid === uuid);
}

/** Objects of a slice that this agent was never told to make. */
async function plant(allocationId: string): Promise<void> {
  const text = JSON.stringify({ allocationId, generation: 1, fence: "1", stage: "made", isStuck: false });
  const draft = join(cloud.folder, `planted-${++serial}`);
  await mkdir(draft);
  for (const name of ["disk", "machine"]) await writeFile(join(draft, name), text);
  await rename(draft, folderOf(allocationId));
}

async function editGpuOwners(edit: (owners: Record<string, string>) => void): Promise<void> {
  const path = join(cloud.agentOptions.stateDir, "simulated-gpus.json");
  const state = JSON.parse(await readFile(path, "utf8")) as { owners: Record<string, string> };
  edit(state.owners);
  await writeFile(`${path}.edited`, JSON.stringify(state));
  await rename(`${path}.edited`, path);
}

test("a machine that is killed is seen, and made again over its disk", { timeout: 90_000 }, async () => {
  const { allocation, folder } = await makeSlice();
  const disk = await readFile(join(folder, "disk"), "utf8");
  await rm(join(folder, "machine"));
  await timed(
    "a machine was killed: seen after",
    async () =>
      await waitFor("a repair", async () => {
        const { operation } = await readPhases(cloud.operator, allocation.id);
        return operation.kind === "allocation.repair";
      }),
  );
  await followOperation(cloud.operator, allocation.id, { timeoutMs: 30_000 });
  expect(await readdir(folder)).toContain("machine");
  expect(await readFile(join(folder, "disk"), "utf8")).toBe(disk);
  expect((await readAllocation(cloud.operator, allocation.id)).state).toBe("active");
  await release(allocation);
});

test(
  "a disk that is deleted is an incident, and the slice is built anew only by an operator's word",
  { timeout: 90_000 },
  async () => {
    const { allocation, folder } = await makeSlice();
    await rm(folder, { recursive: true });
    await timed("a disk was deleted: seen after", async () => await incidentOf(allocation.id, "slice.gone"));
    await expect(readdir(folder)).rejects.toThrow();
    const path = `/api/ops/v1/nodes/${cloud.node.id}/slices/${allocation.id}/rebuild`;
    await cloud.operator.post(path, {}, operationSchema);
    await followOperation(cloud.operator, allocation.id, { timeoutMs: 30_000 });
    await incidentOf(allocation.id, "slice.gone", "closed");
    expect(await readdir(folder)).toContain("disk");
    await release(allocation);
  },
);

test(
  "a GPU that is taken from a slice is an incident that ends when it is given back",
  { timeout: 90_000 },
  async () => {
    const { allocation } = await makeSlice();
    const uuid = allocation.gpus[0]?.uuid ?? "";
    await editGpuOwners((owners) => delete owners[uuid]);
    await timed("a GPU was unbound: seen after", async () => await incidentOf(allocation.id, "slice.drift"));
    await editGpuOwners((owners) => void (owners[uuid] = shortName(allocation.id, 1)));
    await incidentOf(allocation.id, "slice.drift", "closed");
    await release(allocation);
  },
);

test(
  "a slice that was given back and is there again keeps its GPU from others until a signed task removed it",
  { timeout: 120_000 },
  async () => {
    const { allocation, folder } = await makeSlice();
    const uuid = allocation.gpus[0]?.uuid ?? "";
    await release(allocation);
    await plant(allocation.id);
    await editGpuOwners((owners) => void (owners[uuid] = shortName(allocation.id, 1)));
    await timed("an orphan appeared: seen after", async () => await incidentOf(allocation.id, "slice.orphan"));
    await waitFor("its GPU held", async () => (await slotOf(uuid))?.state === "quarantined");
    expect((await slotOf(uuid))?.reason).toContain(`orphan: ${allocation.id}`);
    expect(await readdir(folder)).toHaveLength(2);
    await sql`update slice_findings set due_at = due_at - interval '10 minutes' where allocation_id = ${allocation.id}`;
    await timed(
      "its grace was over: removed after",
      async () =>
        await waitFor(
          "removed",
          async () =>
            await readdir(folder).then(
              () => false,
              () => true,
            ),
          { timeoutMs: 60_000 },
        ),
    );
    await incidentOf(allocation.id, "slice.orphan", "closed");
    const removals =
      await sql`select from task_history where kind = 'slice.remove' and target_id = ${allocation.id} and state = 'succeeded'`;
    expect(removals).toHaveLength(1);
  },
);

test("a slice that nobody knows stays where it is until an operator removes it", { timeout: 90_000 }, async () => {
  const stranger = newId("allocation", systemClock);
  await plant(stranger);
  await timed("an unknown slice appeared: seen after", async () => await incidentOf(cloud.node.id, "slice.unknown"));
  await sql`update slice_findings set due_at = now() - interval '1 day', first_seen_at = now() - interval '1 day' where allocation_id = ${stranger}`;
  const seen = (await incidentOf(cloud.node.id, "slice.unknown")).seenCount;
  await waitFor("another list", async () => (await incidentOf(cloud.node.id, "slice.unknown")).seenCount > seen, {
    timeoutMs: 60_000,
  });
  expect(await readdir(folderOf(stranger))).toHaveLength(2);
  const path = `/api/ops/v1/nodes/${cloud.node.id}/slices/${stranger}/removal`;
  await cloud.operator.post(path, { generation: 1, reason: "planted by a test" }, operationSchema);
  await incidentOf(cloud.node.id, "slice.unknown", "closed");
  await expect(readdir(folderOf(stranger))).rejects.toThrow();
});
