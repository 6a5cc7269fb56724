import { chmod, cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { bootstrapTokenCreatedSchema, nodeSchema, type Node } from "@hostler/shared/api/nodes.ts";
import { pkiStatusSchema, type PkiStatus } from "@hostler/shared/api/pki.ts";
import * as z from "zod";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { clientFor, startControlPlaneProgram, type LocalControlPlane } from "../../deploy/demo/local-cloud.ts";
import { embeddedDatabaseUrl, openEmbeddedDatabase } from "../support/embedded-database.ts";
import { expireIdentity } from "../support/expire-identity.ts";
import { enrolKeptNode, startKeptNode, type KeptNode } from "../support/kept-node.ts";
import { waitFor } from "../support/wait-for.ts";

/** A node's identity over its life, with the agent's own code on one side and real control planes on the other. */
let folder: string;
let stateDir: string;
let plane: LocalControlPlane;
let other: LocalControlPlane;
let operator: ApiClient;
let sql: Sql;
let server: string;
let names = 0;
const started: KeptNode[] = [];

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hostler-identity-"));
  await chmod(folder, 0o755);
  stateDir = join(folder, "control-plane");
  plane = await startControlPlaneProgram({ stateDir, logPath: join(folder, "a.log") });
  const key = plane.ready.firstOperatorKey ?? "";
  other = await startControlPlaneProgram({
    stateDir,
    logPath: join(folder, "b.log"),
    env: { DATABASE_URL: await embeddedDatabaseUrl(stateDir) },
  });
  operator = clientFor(plane.ready.publicUrl, key);
  sql = await openEmbeddedDatabase(stateDir);
  server = new URL(plane.ready.enrolUrl).host;
});
afterEach(async () => {
  for (const node of started.splice(0)) await node.stop();
});
afterAll(async () => {
  await sql?.end();
  await other?.program.stop();
  await plane?.program.stop();
  await rm(folder, { recursive: true, force: true });
});

async function makeToken(body: object = {}): Promise<string> {
  return (await operator.post("/api/ops/v1/bootstrap-tokens", body, bootstrapTokenCreatedSchema)).token;
}

async function makeHost(token?: string): Promise<string> {
  const name = `host-${(names += 1)}`;
  await enrolKeptNode({ stateDir: join(folder, name), server, token: token ?? (await makeToken()), name });
  return join(folder, name);
}

async function start(host: string): Promise<KeptNode> {
  const node = await startKeptNode(host, { waitMs: 300 });
  started.push(node);
  return node;
}

async function startWell(host: string): Promise<KeptNode> {
  const node = await start(host);
  await waitFor("an answered poll", async () => node.polls.answered > 0);
  return node;
}

async function stateOf(nodeId: string): Promise<Node["state"]> {
  return (await operator.get(`/api/ops/v1/nodes/${nodeId}`, nodeSchema)).state;
}

async function act(nodeId: string, action: string, body: object = {}): Promise<void> {
  await operator.post(`/api/ops/v1/nodes/${nodeId}/${action}`, body, z.unknown());
}

async function rotate(step: string, force = false): Promise<PkiStatus> {
  return await operator.post("/api/ops/v1/pki/rotation", { step, force }, pkiStatusSchema);
}

async function status(): Promise<PkiStatus> {
  return await operator.get("/api/ops/v1/pki", pkiStatusSchema);
}

describe("two holders of one identity", () => {
  test("are both frozen within a poll, and the one that the operator leaves running comes back", async () => {
    const host = await makeHost();
    const original = await startWell(host);
    await cp(host, `${host}-copy`, { recursive: true });
    const copy = await start(`${host}-copy`);
    await waitFor("a frozen node", async () => (await stateOf(original.nodeId)) === "frozen");
    await waitFor("both refused", async () =>
      [original, copy].every((node) => (node.polls.failed.get("node_frozen") ?? 0) > 0),
    );
    await copy.stop();
    const answered = original.polls.answered;
    await act(original.nodeId, "unfreeze");
    await waitFor("the original back", async () => original.polls.answered > answered);
    expect(await stateOf(original.nodeId)).toBe("cordoned");
    const [row] =
      await sql`select detail from audit_log where action = 'node.frozen' and target_id = ${original.nodeId}`;
    expect(row?.["detail"]).toMatchObject({ reason: expect.stringContaining("Two holders") });
  });

  test("are told from one that crashes and starts over and over", async () => {
    const host = await makeHost();
    for (let starts = 0; starts < 12; starts += 1) {
      const node = await start(host);
      // Killed before its start was answered, after it, or in the middle of a poll.
      if (starts % 3 > 0) await waitFor("a poll", async () => node.polls.answered >= (starts % 3) - 1);
      await node.stop();
    }
    const node = await startWell(host);
    expect([await stateOf(node.nodeId), node.polls.failed.size]).toEqual(["enrolled", 0]);
  });

  test("are told from a host that was restored from a backup, when the operator said so", async () => {
    const host = await makeHost();
    const { nodeId, stop } = await startWell(host);
    await stop();
    await cp(host, `${host}-backup`, { recursive: true });
    for (const _ of [1, 2]) await (await startWell(host)).stop();
    await act(nodeId, "restore", { ttlSeconds: 600 });
    const restored = await startWell(`${host}-backup`);
    expect([restored.polls.failed.size, await stateOf(nodeId)]).toEqual([0, "enrolled"]);
  });
});

describe("a host whose certificate has ended", () => {
  test("comes back by its last key, three times, and then by an operator's word", async () => {
    const host = await makeHost();
    await (await startWell(host)).stop();
    for (let absences = 1; absences <= 3; absences += 1) {
      await expireIdentity({ stateDir, sql }, { stateDir: host });
      const node = await startWell(host);
      expect(new Date(node.keeper.current.identity.expiresAt).getTime()).toBeGreaterThan(Date.now());
      await node.stop();
    }
    await expireIdentity({ stateDir, sql }, { stateDir: host });
    const refused = await start(host);
    await waitFor("a refusal in the log", async () => {
      const rows =
        await sql`select from audit_log where target_id = ${refused.nodeId} and detail->>'code' = 'recovery_limit'`;
      return rows.length > 0;
    });
    expect(refused.polls.answered).toBe(0);
    await act(refused.nodeId, "recoveries", { more: 1 });
    await waitFor("the host back", async () => refused.polls.answered > 0, { timeoutMs: 30_000 });
    const rows = await sql`select from audit_log where target_id = ${refused.nodeId} and action = 'node.recovered'`;
    expect(rows.length).toBe(4);
  });

  test("is believed although the database was restored from before its last renewal", async () => {
    const host = await makeHost();
    const node = await startWell(host);
    await node.keeper.renew(new AbortController().signal);
    await waitFor("a poll under the new certificate", async () => {
      const rows = await sql`select from node_certificates where node_id = ${node.nodeId} and state = 'superseded'`;
      return rows.length === 1;
    });
    await node.stop();
    // What the backup has: the first certificate, and the session before the last.
    await sql`delete from node_certificates where node_id = ${node.nodeId} and generation = 2`;
    await sql`update node_certificates set state = 'active' where node_id = ${node.nodeId}`;
    await sql`update nodes set session = 0, session_from = 0, session_confirmed = true where id = ${node.nodeId}`;
    const back = await startWell(host);
    expect([...back.polls.failed.keys()]).toEqual([]);
    expect(await stateOf(node.nodeId)).toBe("enrolled");
  });
});

describe("a rotation of the authorities", () => {
  test(
    "is not noticed by running hosts, and hosts and tokens from before find their way",
    { timeout: 120_000 },
    async () => {
      const running = await Promise.all([1, 2, 3].map(async () => await startWell(await makeHost())));
      const sleeper = await makeHost();
      await (await startWell(sleeper)).stop();
      await expireIdentity({ stateDir, sql }, { stateDir: sleeper });
      const oldToken = await makeToken({ ttlSeconds: 3600 });
      for (const _ of [1, 2]) {
        await rotate("prepare");
        await waitFor("trust everywhere", async () => (await status()).nodes.withNewestTrust >= running.length, {
          timeoutMs: 30_000,
        });
        await rotate("issue", true);
        await waitFor(
          "new certificates",
          async () =>
            running.every(({ keeper }) => keeper.current.identity.trustVersion >= 3) &&
            (await status()).nodes.onActiveAuthority >= running.length,
          { timeoutMs: 40_000 },
        );
        await rotate("retire", true);
      }
      const counts = running.map(({ polls }) => polls.answered);
      await waitFor("polls after it all", async () =>
        running.every(({ polls }, index) => polls.answered > (counts[index] ?? 0) + 1),
      );
      expect(running.map(({ polls }) => [...polls.failed])).toEqual([[], [], []]);
      const { authorities } = await status();
      expect(authorities).toMatchObject([{ generation: 3, phase: "active" }]);
      // Both walk the chain of bundles: one from its disk, one from the pin of a root that is gone.
      const back = await startWell(sleeper);
      expect(back.keeper.current.identity.trustVersion).toBe((await status()).trustVersion);
      await startWell(await makeHost(oldToken));
      // The other replica went along.
      const second = clientFor(other.ready.publicUrl, plane.ready.firstOperatorKey ?? "");
      await waitFor("the other replica", async () => {
        const now = await second.get("/api/ops/v1/pki", pkiStatusSchema);
        return now.trustVersion === back.keeper.current.identity.trustVersion;
      });
    },
  );

  test("waits for hosts that are online, and goes back", async () => {
    const node = await startWell(await makeHost());
    await rotate("prepare", true);
    await expect(rotate("prepare", true)).rejects.toMatchObject({ code: "conflict" });
    await expect(rotate("retire", true)).rejects.toMatchObject({ code: "conflict" });
    await rotate("rollback");
    expect((await status()).authorities).toHaveLength(1);
    await waitFor(
      "the host's trust",
      async () => node.keeper.current.identity.trustVersion === (await status()).trustVersion,
    );
    expect([...node.polls.failed]).toEqual([]);
  });
});

test("a token for one key lets no other in", async () => {
  const keyThumbprint = "A".repeat(43);
  await expect(makeHost(await makeToken({ keyThumbprint }))).rejects.toMatchObject({ code: "permission_denied" });
});

test("a revocation on one replica cuts the polls and refuses the requests on the other", async () => {
  const node = await startWell(await makeHost());
  const second = clientFor(other.ready.publicUrl, plane.ready.firstOperatorKey ?? "");
  await second.post(`/api/ops/v1/nodes/${node.nodeId}/revoke`, {}, nodeSchema);
  await waitFor("refused", async () => (node.polls.failed.get("node_revoked") ?? 0) > 0);
});
