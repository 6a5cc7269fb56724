import { X509Certificate } from "node:crypto";
import { keyThumbprint, makeP256Key, signRenewProof } from "@hostler/pki";
import { identitySchema, NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  connectAs,
  PROBE_PATHS,
  startTestPlane,
  type Answer,
  type TestIdentity,
  type TestPlane,
} from "./test-plane.ts";

let plane: TestPlane;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());

async function renew(node: TestIdentity, key = makeP256Key(), overrides: { nodeId?: string } = {}): Promise<Answer> {
  const connection = connectAs(plane, node);
  const { serialNumber } = new X509Certificate(node.answer.certificateChain);
  const claims = { iat: 0, nodeId: node.answer.nodeId, replacesSerial: serialNumber, ...overrides };
  const answer = await connection.post(NODE_PATHS.renew, { proof: await signRenewProof(key, claims) });
  connection.close();
  return answer;
}

async function codeOf(node: TestIdentity): Promise<unknown> {
  const connection = connectAs(plane, node);
  const { status, body } = await connection.post(PROBE_PATHS.who, {});
  connection.close();
  return status === 200 ? "accepted" : body["code"];
}

test("the old certificate is good until the new one is seen, and not after", async () => {
  const old = await plane.makeNode();
  const key = makeP256Key();
  const renewed = { key, answer: identitySchema.parse((await renew(old, key)).body) };
  expect(renewed.answer.nodeId).toBe(old.answer.nodeId);
  expect(new X509Certificate(renewed.answer.certificateChain).checkPrivateKey(key)).toBe(true);
  expect(await codeOf(old)).toBe("accepted");
  expect(await codeOf(renewed)).toBe("accepted");
  expect(await codeOf(old)).toBe("certificate_inactive");
});

test("a renewal whose answer was lost is asked for again and gives the same certificate", async () => {
  const old = await plane.makeNode();
  const key = makeP256Key();
  const first = await renew(old, key);
  expect((await renew(old, key)).body["certificateChain"]).toBe(first.body["certificateChain"]);
  // Even a host that lost the new key too is not locked out.
  expect((await renew(old)).status).toBe(200);
});

test("ten renewals at once give each its own generation", async () => {
  const old = await plane.makeNode();
  const answers = await Promise.all(Array.from({ length: 10 }, async () => await renew(old)));
  expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 10 }, () => 200));
  const rows =
    await plane.sql`select generation from node_certificates where node_id = ${old.answer.nodeId} order by generation`;
  expect(rows.map((row) => row["generation"])).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
});

test("a proof for another node, by the key in use, or by a key of another node is refused", async () => {
  const [one, other] = [await plane.makeNode(), await plane.makeNode()];
  const refused = { status: 400, body: { code: "proof_invalid" } };
  expect(await renew(one, makeP256Key(), { nodeId: other.answer.nodeId })).toMatchObject(refused);
  expect(await renew(one, other.key)).toMatchObject(refused);
});

test("a key that was replaced cannot be brought back", async () => {
  const old = await plane.makeNode();
  const second = { key: makeP256Key(), answer: old.answer };
  const renewed = { key: second.key, answer: identitySchema.parse((await renew(old, second.key)).body) };
  expect(await codeOf(renewed)).toBe("accepted");
  expect((await renew(renewed, old.key)).body["code"]).toBe("proof_invalid");
});

test("tasks are bound to the key of the certificate in use", async () => {
  const node = await plane.makeNode();
  const connection = connectAs(plane, node);
  expect((await connection.post(PROBE_PATHS.who, {})).body["keyThumbprint"]).toBe(keyThumbprint(node.key));
  connection.close();
});
