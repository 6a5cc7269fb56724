import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import type { PollAnswer } from "@hostler/shared/node-protocol.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { requestSlice } from "../../deploy/demo/journey.ts";
import { startKilledPostgres, type KilledPostgres } from "../support/killed-postgres.ts";
import { makeScriptedNode, type ScriptedNode } from "../support/scripted-node.ts";
import { startSuitePlanes, type SuitePlanes, type SuiteReplica } from "../support/suite-planes.ts";
import { waitFor } from "../support/wait-for.ts";

/** Of each replica, the longer for a busy machine: what a request waits for the database is a share of it. */
const LEASES_MS = [240_000, 2000];
const never = new AbortController().signal;
let folder: string;
let database: KilledPostgres;
let planes: SuitePlanes;
/** One at each replica. */
let nodes: ScriptedNode[];
let serial = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hostler-outage-"));
  await chmod(folder, 0o755);
  database = await startKilledPostgres({ stateDir: folder });
  planes = await startSuitePlanes(2, {
    database,
    placeOf: (index) => ({ env: { HOSTLER_LEASE_MS: String(LEASES_MS[index]) }, prefix: [] }),
  });
  await replica(0).operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  nodes = [await scriptedNode("zero", 0), await scriptedNode("one", 1)];
}, 120_000);
afterAll(async () => {
  for (const node of nodes ?? []) await node.close();
  await planes?.close();
  await rm(folder, { recursive: true, force: true });
});

function replica(index: number): SuiteReplica {
  const found = planes.replicas[index];
  if (found === undefined) throw new Error("there are two");
  return found;
}

async function scriptedNode(name: string, index: number): Promise<ScriptedNode> {
  const { operator, server } = replica(index);
  return await makeScriptedNode({ operator, server, folder, name, gpus: 2 });
}

function nodeAt(index: number): ScriptedNode {
  const node = nodes[index];
  if (node === undefined) throw new Error("each replica has one");
  return node;
}

/** Resolves when a tenant's request was taken. */
async function requestTask(): Promise<void> {
  const { operator } = replica(0);
  serial += 1;
  const labels = { "hostler.dev/driver": "mock" };
  const request = { projectId: planes.projectId, name: `slice-${serial}`, image: "tiny", gpus: 2, labels };
  await waitFor("a request taken", async () => await requestSlice(operator, request).catch(() => undefined));
}

async function untilNoticed(index: number): Promise<void> {
  await waitFor("the outage noticed", async () => (await fetch(`${replica(index).publicUrl}/healthz`)).status === 503);
}

/** A poll, and whether it was answered by now. */
function follow(poll: Promise<PollAnswer>): { readonly outcome: Promise<unknown>; isOver: boolean } {
  const followed = { outcome: poll.catch((error: unknown) => error), isOver: false };
  void followed.outcome.then(() => (followed.isOver = true));
  return followed;
}

test("a poll that comes while the database is away waits for it, then brings tasks and keeps leases", async () => {
  const node = nodeAt(0);
  // Both nodes have room for one request.
  await requestTask();
  await requestTask();
  const { claims } = await node.takeTask();
  await database.kill("SIGKILL");
  await untilNoticed(0);
  const running = [{ taskId: claims.jti, fence: claims.fence, phase: null }];
  const poll = node.poll({ waitMs: 6000, running });
  const progress = node.client.sendProgress({ taskId: claims.jti, fence: claims.fence, events: [], signal: never });
  await untilNoticed(0);
  await database.start();
  expect(await progress).toMatchObject({ cancel: false });
  expect(await poll).toMatchObject({ stale: [], cancel: [] });
  const [row] = await planes.sql`select state, fence::text from tasks where id = ${claims.jti}`;
  expect(row).toEqual({ state: "leased", fence: claims.fence });
});

test("a poll is told that the database is away before its agent would take it for lost", async () => {
  await database.kill("SIGKILL");
  await untilNoticed(1);
  const poll = follow(nodeAt(1).poll({ waitMs: 20_000 }));
  await untilNoticed(1);
  expect(poll.isOver).toBe(false);
  expect(await poll.outcome).toMatchObject({ code: "service_unavailable", cause: undefined });
  await database.start();
  await waitFor(
    "answers again",
    async () =>
      await nodeAt(1)
        .poll()
        .catch(() => undefined),
  );
});

test("a replica that stops lets the polls go that wait for the database", async () => {
  await database.kill("SIGKILL");
  await untilNoticed(0);
  const poll = follow(nodeAt(0).poll({ waitMs: 25_000 }));
  await untilNoticed(0);
  expect(poll.isOver).toBe(false);
  process.kill(replica(0).pid(), "SIGTERM");
  // An answer, not a connection that was cut.
  expect(await poll.outcome).toMatchObject({ code: "service_unavailable", cause: undefined });
  await database.start();
});
