import { join } from "node:path";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { allocationOperationSchema, type Allocation } from "@hostler/shared/api/allocations.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { PROTOCOL_VERSION, PROTOCOL_VERSION_PORTS } from "@hostler/shared/node-protocol.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { followOperation, readAllocation, requestRelease } from "../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { openEmbeddedDatabase } from "../support/embedded-database.ts";
import { runHostler } from "../support/run-hostler.ts";
import { waitFor } from "../support/wait-for.ts";

/** Ports of a slice from the request to what its tenant reads, on real processes. */
const WEB = { protocol: "tcp", port: 8080 } as const;
const DNS = { protocol: "udp", port: 53 } as const;
let cloud: TestCloud;
let sql: Sql;

beforeAll(async () => {
  cloud = await startTestCloud({ agentArgs: ["--drivers", "mock"] });
  await cloud.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  sql = await openEmbeddedDatabase(join(cloud.folder, "control-plane"));
});
afterAll(async () => {
  await sql?.end();
  await cloud?.close();
});

async function create(name: string, network: Readonly<Record<string, unknown>>): Promise<Allocation> {
  const path = `/api/tenant/v1/projects/${cloud.projectId}/allocations`;
  const body = { name, image: "tiny", labels: { "hostler.dev/driver": "mock" }, ...network };
  return (await cloud.operator.post(path, body, allocationOperationSchema)).allocation;
}

async function cli(...args: readonly string[]) {
  const { url, apiKey, folder } = cloud;
  return await runHostler(args, { home: folder, signIn: { url, apiKey } });
}

const readVersion = async (): Promise<unknown> =>
  (await sql`select protocol_version as version from nodes where id = ${cloud.node.id}`)[0]?.["version"];

test("a tenant sees where the ports of its slice are reached, as long as it has the slice", async () => {
  const asked = await create("web", { ports: [WEB, DNS], bandwidthMbitPerSecond: 100 });
  expect(asked.ports).toEqual([WEB, DNS].map((one) => ({ ...one, hostPort: null, hostAddress: null })));
  await followOperation(cloud.operator, asked.id, { timeoutMs: 30_000 });
  const active = await readAllocation(cloud.operator, asked.id);
  const hosted = [WEB, DNS].map((one, index) => ({ ...one, hostPort: 30_000 + index, hostAddress: "192.0.2.1" }));
  expect(active).toMatchObject({ state: "active", ports: hosted, bandwidthMbitPerSecond: 100 });
  expect((await cli("allocations", "show", asked.id)).stdout).toMatch(
    /tcp 8080: 192\.0\.2\.1:30000\nudp 53: 192\.0\.2\.1:30001/,
  );
  await requestRelease(cloud.operator, asked.id);
  await followOperation(cloud.operator, asked.id, { timeoutMs: 30_000 });
  expect((await readAllocation(cloud.operator, asked.id)).ports).toEqual(asked.ports);
});

test("the command line asks for ports and bandwidth, and names what it cannot read", async () => {
  const label = "hostler.dev/driver=mock";
  const flags = ["--image", "tiny", "--label", label, "--port", "443", "--port", "53/udp", "--bandwidth", "50"];
  const { stdout: printed } = await cli("allocations", "create", "by-hand", ...flags, "--wait");
  expect(printed).toMatch(/is active.*\ntcp 443: 192\.0\.2\.1:30000\nudp 53: 192\.0\.2\.1:30001/);
  for (const port of ["99999", "80/sctp", "0"])
    expect((await cli("allocations", "create", "odd", "--image", "tiny", "--port", port)).stderr).toContain(
      `--port ${port} is not a port`,
    );
});

test("an agent that is too old for ports gets none, until it is upgraded and has started", async () => {
  await sql`update nodes set protocol_version = ${PROTOCOL_VERSION_PORTS - 1} where id = ${cloud.node.id}`;
  await expect(create("too-new", { ports: [WEB] })).rejects.toMatchObject({
    code: "capacity_unavailable",
    message: expect.stringContaining(`its agent speaks version ${PROTOCOL_VERSION_PORTS - 1}`) as string,
  });
  await create("plain", {});
  await cloud.agent.stop();
  cloud.restartAgent();
  await waitFor("the agent's version", async () => (await readVersion()) === PROTOCOL_VERSION);
  const asked = await waitFor(
    "a place",
    async () => await create("new-enough", { ports: [WEB] }).catch(() => undefined),
  );
  await followOperation(cloud.operator, asked.id, { timeoutMs: 30_000 });
  expect((await readAllocation(cloud.operator, asked.id)).ports).toMatchObject([{ hostPort: 30_000 }]);
});
