import { spawn } from "node:child_process";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer, connect } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect as connectTls } from "node:tls";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { makeControlPlaneClient, type ControlPlaneClient } from "@hostler/node-agent/control/control-plane-client.ts";
import { enrol } from "@hostler/node-agent/identity/enrol.ts";
import { readIdentity, type StoredIdentity } from "@hostler/node-agent/identity/identity-files.ts";
import { renewIdentity } from "@hostler/node-agent/identity/renew.ts";
import { makeDiskFiles } from "@hostler/node-agent/journal/disk-files.ts";
import { bootstrapTokenCreatedSchema, nodeSchema, type BootstrapTokenCreated } from "@hostler/shared/api/nodes.ts";
import { PROTOCOL_VERSION } from "@hostler/shared/node-protocol.ts";
import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import { createPublicKey, X509Certificate } from "node:crypto";
import { issueNodeLeaf, issueRoot, keyThumbprint, makeP256Key, makeSerial, pemOf } from "@hostler/pki";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { waitFor } from "../support/wait-for.ts";
import { beginSession } from "../support/scripted-node.ts";
import { clientFor, startControlPlaneProgram, type LocalControlPlane } from "../../deploy/demo/local-cloud.ts";

/** Enrolment and identity over real TLS, against a control plane in a process of its own. */
let folder: string;
let plane: LocalControlPlane;
let operator: ApiClient;
let server: string;
let hosts = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "hostler-enrol-"));
  await chmod(folder, 0o755);
  plane = await startControlPlaneProgram({ stateDir: join(folder, "plane"), logPath: join(folder, "plane.log") });
  operator = clientFor(plane.ready.publicUrl, plane.ready.firstOperatorKey ?? "");
  server = plane.ready.enrolUrl.replace("https://", "");
});
afterAll(async () => {
  await plane?.program.stop();
  await rm(folder, { recursive: true, force: true });
});

async function makeToken(body: { ttlSeconds?: number; hostName?: string } = {}): Promise<BootstrapTokenCreated> {
  return await operator.post("/api/ops/v1/bootstrap-tokens", body, bootstrapTokenCreatedSchema);
}

/** Enrols as a host of its own, or again as the host of that number. */
async function enrolHost(
  token: string,
  options: { host?: number; clock?: Clock; server?: string } = {},
): Promise<StoredIdentity> {
  hosts += 1;
  const files = makeDiskFiles(join(folder, `host-${options.host ?? hosts}`));
  const request = {
    server: options.server ?? server,
    token,
    hostName: `host-${options.host ?? hosts}`,
    agentVersion: "test",
  };
  return await enrol({ files, clock: options.clock ?? systemClock }, request);
}

const shifted = (ms: number): Clock => ({ ...systemClock, now: () => new Date(systemClock.now().getTime() + ms) });
const poll = {
  protocolVersion: PROTOCOL_VERSION,
  agentInstance: "test",
  ackedRevision: 0,
  waitMs: 0,
  credit: 0,
  running: [],
};
const never = new AbortController().signal;

async function codeOf(work: Promise<unknown>): Promise<unknown> {
  return await work.then(
    () => "accepted",
    (error: { code?: string }) => error.code,
  );
}

describe("a bootstrap token", () => {
  test("makes a node with a certificate of 24 h and one SPIFFE name", async () => {
    const { identity } = await enrolHost((await makeToken()).token);
    const leaf = new X509Certificate(identity.certificateChain);
    expect(leaf.subjectAltName).toMatch(/^URI:spiffe:\/\/hostler\.internal\/node\/[0-9a-f-]{36}$/);
    const lifeHours = (leaf.validToDate.getTime() - systemClock.now().getTime()) / 3_600_000;
    expect(lifeHours).toBeGreaterThan(23.9);
    expect(lifeHours).toBeLessThanOrEqual(24);
    const renewShare =
      (Date.parse(identity.renewAt) - leaf.validFromDate.getTime()) /
      (leaf.validToDate.getTime() - leaf.validFromDate.getTime());
    expect(renewShare).toBeGreaterThan(0.39);
    expect(renewShare).toBeLessThan(0.61);
  });

  test("wrong, damaged, revoked and used ones are refused, each with its own code", async () => {
    const good = await makeToken();
    const parts = good.token.split(".");
    expect(await codeOf(enrolHost([parts[0], parts[1], "A".repeat(43), parts[3]].join(".")))).toBe(
      "bootstrap_token_unknown",
    );
    expect(await codeOf(enrolHost("hst1.nonsense"))).toBe("bootstrap_token_malformed");
    const revoked = await makeToken();
    await operator.remove(`/api/ops/v1/bootstrap-tokens/${revoked.id}`);
    expect(await codeOf(enrolHost(revoked.token))).toBe("bootstrap_token_revoked");
    await enrolHost(good.token);
    expect(await codeOf(enrolHost(good.token))).toBe("bootstrap_token_used");
    const bound = await makeToken({ hostName: "somebody-else" });
    expect(await codeOf(enrolHost(bound.token))).toBe("permission_denied");
  });

  test("with the same key again gives the same certificate: a lost answer burns nothing", async () => {
    const { token } = await makeToken();
    const first = await enrolHost(token, { host: 900 });
    // The answer was lost: the host has its key and no certificate.
    const files = makeDiskFiles(join(folder, "host-900"));
    await files.replace("enrol-key.pem", first.privateKeyPem);
    await files.remove("identity.json");
    const second = await enrolHost(token, { host: 900 });
    expect(second.identity.certificateChain).toBe(first.identity.certificateChain);
  });

  test("used by thirty hosts at once makes exactly one node", { timeout: 60_000 }, async () => {
    const { token } = await makeToken();
    const codes = await Promise.all(Array.from({ length: 30 }, async () => await codeOf(enrolHost(token))));
    expect(codes.filter((code) => code === "accepted")).toHaveLength(1);
    expect(codes.filter((code) => code === "bootstrap_token_used")).toHaveLength(29);
  });

  test("of another control plane is refused before a byte of it leaves", async () => {
    const { token } = await makeToken();
    const otherPin = [...token.split(".").slice(0, 3), "B".repeat(43)].join(".");
    const seen: Buffer[] = [];
    const [host = "", port = ""] = server.split(":");
    // A wire tap: what the host says ends up in `seen`.
    const tap = createServer((socket) => {
      const upstream = connect(Number(port), host);
      socket.on("data", (bytes: Buffer) => seen.push(bytes));
      socket.pipe(upstream).pipe(socket);
      socket.on("error", () => upstream.destroy());
      upstream.on("error", () => socket.destroy());
    }).listen(0, "127.0.0.1");
    await once(tap, "listening");
    const address = tap.address();
    const tapPort = typeof address === "object" && address !== null ? address.port : 0;
    expect(await codeOf(enrolHost(otherPin, { server: `127.0.0.1:${tapPort}` }))).toBe("pin_mismatch");
    tap.close();
    // Two connections: one that only looks at the certificates, one that asks whom to trust. A few hundred bytes each.
    expect(Buffer.concat(seen).length).toBeLessThan(5000);
    expect(Buffer.concat(seen).includes(token.split(".")[2] ?? "")).toBe(false);
  });

  test("from a host whose clock is off by an hour is refused with the offset", async () => {
    const { token } = await makeToken();
    const error = await enrolHost(token, { clock: shifted(-3_600_000) }).catch((failure: unknown) => failure);
    expect(error).toMatchObject({ code: "clock_skew" });
    expect(String(error)).toContain("behind");
    const offsetMs = Number((error as { facts: Record<string, unknown> }).facts["offsetMs"]);
    expect(Math.abs(offsetMs + 3_600_000)).toBeLessThan(10_000);
    // The token is still good.
    await enrolHost(token);
  });
});

describe("the node listener", () => {
  test("refuses each kind of wrong certificate by name", async () => {
    const stored = await enrolHost((await makeToken()).token);
    const stranger = makeP256Key();
    const root = { name: "stranger", key: stranger };
    const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 60_000) };
    const leaf = issueNodeLeaf({
      issuer: root,
      publicKey: createPublicKey(stranger),
      trustDomain: "hostler.internal",
      nodeId: stored.identity.nodeId,
      serial: makeSerial(),
      validity,
    });
    const foreign: StoredIdentity = {
      ...stored,
      privateKey: stranger,
      privateKeyPem: stranger.export({ type: "pkcs8", format: "pem" }).toString(),
      identity: { ...stored.identity, certificateChain: pemOf(leaf) + pemOf(issueRoot(root, validity)) },
    };
    expect(await pollAs(stored)).toBe("accepted");
    expect(await pollAs(foreign)).toBe("certificate_untrusted");
  });

  test.each([
    ["GnuTLS", "gnutls-cli", gnutlsArgs],
    ["OpenSSL", "openssl", opensslArgs],
  ] as const)("speaks to %s as to Node", async (_name, program, argsOf) => {
    const stored = await enrolHost((await makeToken()).token);
    const dir = await mkdtemp(join(folder, "tls-"));
    const files = { key: join(dir, "key"), chain: join(dir, "chain"), root: join(dir, "root") };
    await writeFile(files.key, stored.privateKeyPem);
    await writeFile(files.chain, stored.identity.certificateChain);
    await writeFile(files.root, stored.identity.trustBundle);
    const child = spawn(program, argsOf(stored.identity.nodeListener, files), { stdio: ["pipe", "pipe", "ignore"] });
    // Both ends of TLS are proven before the listener looks at the request, which lacks a session.
    child.stdin.write("POST /node/v1/poll HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
    let answer = "";
    child.stdout.on("data", (bytes: Buffer) => (answer += bytes.toString()));
    await waitFor("the answer", async () => answer.includes("x-hostler-session"));
    child.kill();
  });

  test("refuses a request without a certificate and TLS 1.2", async () => {
    const stored = await enrolHost((await makeToken()).token);
    const [host = "", port = ""] = stored.identity.nodeListener.split(":");
    const target = {
      host,
      port: Number(port),
      ca: stored.identity.trustBundle,
      servername: "control-plane.hostler.internal",
    };
    const bare = connectTls({ ...target, minVersion: "TLSv1.3" });
    await once(bare, "secureConnect");
    bare.write("POST /node/v1/poll HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
    const [answer] = (await once(bare, "data")) as [Buffer];
    expect(answer.toString()).toContain("certificate_missing");
    bare.destroy();
    const old = connectTls({ ...target, maxVersion: "TLSv1.2" });
    const [failure] = (await once(old, "error")) as [Error];
    expect(failure.message).toMatch(/protocol version/i);
  });

  test("a revoked node is refused at once, on the connection that it has", async () => {
    const stored = await enrolHost((await makeToken()).token);
    const client = await clientOf(stored);
    await client.poll(poll, never);
    await operator.post(`/api/ops/v1/nodes/${stored.identity.nodeId}/revoke`, {}, nodeSchema);
    // The connection is cut; on a new one the refusal has its code.
    await expect.poll(async () => await codeOf(client.poll(poll, never))).toBe("node_revoked");
    await client.close();
  });

  test("a renewal brings a new key, and the old certificate ends when the new one is used", async () => {
    const stored = await enrolHost((await makeToken()).token, { host: 901 });
    const files = makeDiskFiles(join(folder, "host-901"));
    const client = await clientOf(stored);
    const longPoll = client.poll({ ...poll, waitMs: 1500 }, never);
    const renewed = await renewIdentity({ files, clock: systemClock, send: client.renewCertificate }, stored, never);
    expect(keyThumbprint(renewed.privateKey)).not.toBe(keyThumbprint(stored.privateKey));
    client.useIdentity(renewed);
    await client.poll(poll, never);
    // The poll that was under way when the identity was swapped ends well.
    await longPoll;
    expect(await pollAs(stored)).toBe("certificate_inactive");
    expect((await readIdentity(files))?.identity.certificateChain).toBe(renewed.identity.certificateChain);
    await client.close();
  });
});

async function pollAs(identity: StoredIdentity): Promise<unknown> {
  return await codeOf(clientOf(identity).then(async (client) => await client.close()));
}

/** A client with a session of its own. */
async function clientOf(identity: StoredIdentity): Promise<ControlPlaneClient> {
  const client = makeControlPlaneClient(identity);
  await beginSession(client, "test");
  return client;
}

interface TlsFiles {
  readonly key: string;
  readonly chain: string;
  readonly root: string;
}

function gnutlsArgs(listener: string, files: TlsFiles): string[] {
  const [host = "", port = ""] = listener.split(":");
  const identity = ["--x509certfile", files.chain, "--x509keyfile", files.key, "--x509cafile", files.root];
  const name = "control-plane.hostler.internal";
  return [...identity, "--verify-hostname", name, "--sni-hostname", name, "--port", port, host];
}

function opensslArgs(listener: string, files: TlsFiles): string[] {
  const identity = ["-cert", files.chain, "-cert_chain", files.chain, "-key", files.key, "-CAfile", files.root];
  const strict = [
    "-tls1_3",
    "-verify_return_error",
    "-verify_hostname",
    "control-plane.hostler.internal",
    "-x509_strict",
  ];
  return ["s_client", "-quiet", "-connect", listener, ...identity, ...strict];
}
