import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { connect, type ConnectionOptions } from "node:tls";
import { issueNodeLeaf, issueRoot, makeP256Key, makeSerial, pemOf, serverNameOf, type Validity } from "@hostler/pki";
import { newId } from "@hostler/shared/ids.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { WebSocket } from "ws";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  connectAs,
  PROBE_PATHS,
  startTestPlane,
  type Answer,
  type TestIdentity,
  type TestPlane,
  sessionHeader,
  waitingNodes,
} from "./test-plane.ts";

const HOUR_MS = 3_600_000;
let plane: TestPlane;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());

async function ask(identity: Parameters<TestPlane["connect"]>[0]): Promise<Answer> {
  const connection = plane.connect(identity);
  try {
    return await connection.post(PROBE_PATHS.who, {});
  } finally {
    connection.close();
  }
}

/** A leaf that our own node CA signed, as only a thief of its key could make one. */
async function issueByNodeAuthority(options: {
  readonly nodeId: string;
  readonly validity: Validity;
  readonly serial?: string;
}): Promise<Parameters<TestPlane["connect"]>[0]> {
  const key = makeP256Key();
  const authorityKey = createPrivateKey(await readFile(join(plane.stateDir, "pki/node-ca.key"), "utf8"));
  const { subject } = new X509Certificate(plane.pki.authority.nodeAuthorityPem);
  const issuer = { name: subject.replace("CN=", ""), key: authorityKey };
  const { nodeId, validity, serial = makeSerial() } = options;
  const leaf = issueNodeLeaf({
    issuer,
    publicKey: createPublicKey(key),
    trustDomain: "test.internal",
    nodeId,
    serial,
    validity,
  });
  return { key, chainPem: pemOf(leaf) + plane.pki.authority.nodeAuthorityPem };
}

const around = (fromMs: number, toMs: number): Validity => ({
  notBefore: new Date(Date.now() + fromMs),
  notAfter: new Date(Date.now() + toMs),
});
const revoke = async ({ answer }: TestIdentity): Promise<Answer> =>
  await plane.asOperator("POST", `/api/ops/v1/nodes/${answer.nodeId}/revoke`, {});

describe("each wrong certificate is refused by name", () => {
  test("a good one is the node that it names", async () => {
    const node = await plane.makeNode();
    expect(await ask({ key: node.key, chainPem: node.answer.certificateChain })).toMatchObject({
      status: 200,
      body: { id: node.answer.nodeId, name: "host" },
    });
  });

  test("of another CA", async () => {
    const key = makeP256Key();
    const authority = { name: "stranger", key };
    const nodeId = newId("node", systemClock);
    const validity = around(-HOUR_MS, HOUR_MS);
    const leaf = issueNodeLeaf({
      issuer: authority,
      publicKey: createPublicKey(key),
      trustDomain: "test.internal",
      nodeId,
      serial: makeSerial(),
      validity,
    });
    const answer = await ask({ key, chainPem: pemOf(leaf) + pemOf(issueRoot(authority, validity)) });
    expect(answer).toMatchObject({ status: 401, body: { code: "certificate_untrusted" } });
  });

  test("of a server", async () => {
    const { keyPem, chainPem } = plane.pki.issueServerCertificate();
    const answer = await ask({ key: createPrivateKey(keyPem), chainPem });
    expect(answer).toMatchObject({ status: 401, body: { code: "certificate_untrusted" } });
    expect(answer.body["detail"]).toContain("INVALID_PURPOSE");
  });

  test("signed by a node: a leaf is no CA", async () => {
    const node = await plane.makeNode();
    const key = makeP256Key();
    const issuer = { name: node.answer.nodeId, key: node.key };
    const leaf = issueNodeLeaf({
      issuer,
      publicKey: createPublicKey(key),
      trustDomain: "test.internal",
      nodeId: newId("node", systemClock),
      serial: makeSerial(),
      validity: around(-HOUR_MS, HOUR_MS),
    });
    const answer = await ask({ key, chainPem: pemOf(leaf) + node.answer.certificateChain });
    expect(answer).toMatchObject({ status: 401, body: { code: "certificate_untrusted" } });
  });

  test("from our node CA, but not in our records", async () => {
    const { answer } = await plane.makeNode();
    const forged = await issueByNodeAuthority({ nodeId: answer.nodeId, validity: around(-HOUR_MS, HOUR_MS) });
    expect((await ask(forged)).body).toMatchObject({
      code: "certificate_untrusted",
      detail: expect.stringContaining("did not issue"),
    });
  });

  test("with the serial of another node", async () => {
    const { answer } = await plane.makeNode();
    const { serialNumber } = new X509Certificate(answer.certificateChain);
    const forged = await issueByNodeAuthority({
      nodeId: newId("node", systemClock),
      serial: serialNumber,
      validity: around(-HOUR_MS, HOUR_MS),
    });
    expect((await ask(forged)).body["code"]).toBe("certificate_untrusted");
  });

  test("with the serial and the name of a node, on another key", async () => {
    const { answer } = await plane.makeNode();
    const { serialNumber: serial } = new X509Certificate(answer.certificateChain);
    const forged = await issueByNodeAuthority({
      nodeId: answer.nodeId,
      serial,
      validity: around(-HOUR_MS, HOUR_MS),
    });
    expect((await ask(forged)).body["code"]).toBe("certificate_untrusted");
  });

  test("ended, and not begun", async () => {
    const nodeId = newId("node", systemClock);
    const ended = await issueByNodeAuthority({ nodeId, validity: around(-2 * HOUR_MS, -HOUR_MS) });
    const tomorrow = await issueByNodeAuthority({ nodeId, validity: around(HOUR_MS, 2 * HOUR_MS) });
    expect((await ask(ended)).body["code"]).toBe("certificate_expired");
    expect((await ask(tomorrow)).body["code"]).toBe("certificate_not_yet_valid");
  });
});

describe("a connection that was good a second ago", () => {
  test("is refused when the certificate has ended meanwhile", async () => {
    const connection = connectAs(plane, await plane.makeNode());
    expect((await connection.post(PROBE_PATHS.who, {})).status).toBe(200);
    plane.shiftClock(25 * HOUR_MS);
    const answer = await connection.post(PROBE_PATHS.who, {});
    plane.shiftClock(0);
    connection.close();
    expect(answer).toMatchObject({ status: 401, body: { code: "certificate_expired" } });
  });

  test("is cut by a revocation, with the request that waits on it, and refused when it comes again", async () => {
    const node = await plane.makeNode();
    const connection = connectAs(plane, node);
    await connection.post(PROBE_PATHS.who, {});
    const waiting = connection.post(PROBE_PATHS.wait, {}).then(
      () => "answered",
      (error: NodeJS.ErrnoException) => error.code,
    );
    await expect.poll(() => waitingNodes.has(node.answer.nodeId)).toBe(true);
    expect((await revoke(node)).body["state"]).toBe("revoked");
    expect(await waiting).toBe("ECONNRESET");
    expect(await connection.post(PROBE_PATHS.who, {})).toMatchObject({ status: 403, body: { code: "node_revoked" } });
    connection.close();
  });

  test("is refused when another replica revoked the node, without being told", async () => {
    const node = await plane.makeNode();
    const connection = connectAs(plane, node);
    await connection.post(PROBE_PATHS.who, {});
    await plane.sql`update node_certificates set state = 'revoked' where node_id = ${node.answer.nodeId}`;
    expect((await connection.post(PROBE_PATHS.who, {})).body["code"]).toBe("certificate_inactive");
    connection.close();
  });
});

describe("a WebSocket", () => {
  const dial = (tls: object, headers: Record<string, string> = {}): WebSocket => {
    const address = `wss://127.0.0.1:${plane.nodePort}${PROBE_PATHS.socket}`;
    return new WebSocket(address, { ...tls, headers, perMessageDeflate: false });
  };

  test("is upgraded for a node, cut by its revocation and refused afterwards", async () => {
    const node = await plane.makeNode();
    const socket = dial(plane.tlsOf(node), sessionHeader(node.answer.certificateChain));
    await once(socket, "open");
    socket.send("hello");
    expect(String(((await once(socket, "message")) as [Buffer])[0])).toBe("hello");
    const closed = once(socket, "close");
    await revoke(node);
    // 1006: the connection went without a word.
    expect((await closed)[0]).toBe(1006);
    const again = dial(plane.tlsOf(node));
    const [, answer] = (await once(again, "unexpected-response")) as [unknown, { statusCode: number }];
    again.on("error", () => undefined).terminate();
    expect(answer.statusCode).toBe(403);
  });

  test("is not upgraded without a certificate", async () => {
    const socket = dial({ ca: plane.pki.authority.trustBundlePem, servername: serverNameOf("test.internal") });
    const [, answer] = (await once(socket, "unexpected-response")) as [unknown, { statusCode: number }];
    socket.on("error", () => undefined).terminate();
    expect(answer.statusCode).toBe(401);
  });
});

test("a session ticket opens nothing, with the certificate or without", async () => {
  const node = await plane.makeNode();
  const { key: _key, cert: _cert, ...withoutCertificate } = plane.tlsOf(node);
  const tickets: Buffer[] = [];
  const [[name, value] = []] = Object.entries(sessionHeader(node.answer.certificateChain));
  const session = `${name}: ${value}`;
  const talk = async (tls: ConnectionOptions): Promise<{ answer: string; isReused: boolean }> => {
    const socket = connect({ host: "127.0.0.1", ...tls }).on("session", (ticket: Buffer) => tickets.push(ticket));
    await once(socket, "secureConnect");
    expect(socket.getProtocol()).toBe("TLSv1.3");
    const isReused = socket.isSessionReused();
    const lines = [`POST ${PROBE_PATHS.who} HTTP/1.1`, "host: x", "connection: close", "content-length: 2", session];
    socket.write(`${lines.join("\r\n")}\r\n\r\n{}`);
    return { answer: await text(socket), isReused };
  };
  expect((await talk(plane.tlsOf(node))).answer).toContain("200 OK");
  // OpenSSL sends tickets all the same; they name a session that nobody kept.
  const [ticket] = tickets;
  if (ticket === undefined) return;
  const again = await talk({ ...plane.tlsOf(node), session: ticket });
  expect(again.isReused).toBe(false);
  expect(again.answer).toContain("200 OK");
  const stolen = await talk({ ...withoutCertificate, session: ticket });
  expect(stolen.isReused).toBe(false);
  expect(stolen.answer).toContain("certificate_missing");
});
