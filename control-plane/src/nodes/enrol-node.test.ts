import { request } from "node:https";
import { once } from "node:events";
import { X509Certificate } from "node:crypto";
import { makeP256Key, parseBootstrapToken, serverNameOf } from "@hostler/pki";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { startTestPlane, type TestPlane } from "./test-plane.ts";

let plane: TestPlane;
beforeAll(async () => void (plane = await startTestPlane()));
afterAll(async () => await plane.close());

async function refusalsOf(token: string): Promise<{ outcome: string; code: string }[]> {
  const { id } = parseBootstrapToken(token);
  return await plane.sql<{ outcome: string; code: string }[]>`
    select outcome, detail ->> 'code' as code from audit_log where action = 'node.enrol' and target_id = ${id} order by seq
  `;
}

describe("a refused enrolment says why and is audited", () => {
  test.each<[string, (token: string) => Promise<unknown>, string]>([
    ["an expired token", async (token) => await age(token), "bootstrap_token_expired"],
    [
      "a revoked token",
      async (token) =>
        await plane.asOperator("DELETE", `/api/ops/v1/bootstrap-tokens/${parseBootstrapToken(token).id}`),
      "bootstrap_token_revoked",
    ],
    ["a token that another key used", async (token) => await plane.enrol(token), "bootstrap_token_used"],
  ])("%s", async (_, spoil, code) => {
    const token = await plane.makeToken();
    await spoil(token);
    expect((await plane.enrol(token)).body["code"]).toBe(code);
    expect(await refusalsOf(token)).toEqual([{ outcome: "refused", code }]);
  });

  test("a wrong secret of a known token, and a token of nobody", async () => {
    const token = await plane.makeToken();
    for (const claims of [{ tokenSecret: "A".repeat(43) }, { tokenId: "0000000000" }])
      expect((await plane.enrol(token, { claims })).body["code"]).toBe("bootstrap_token_unknown");
    expect((await plane.enrol(token)).status).toBe(200);
  });

  test("a token for another host name leaves the token good for its own", async () => {
    const token = await plane.makeToken({ hostName: "gpu-7" });
    expect((await plane.enrol(token, { claims: { hostName: "gpu-8" } })).body["detail"]).toContain("gpu-7");
    expect((await plane.enrol(token, { claims: { hostName: "gpu-7" } })).status).toBe(200);
  });

  test("a clock an hour off, either way, names the offset", async () => {
    const token = await plane.makeToken();
    const seconds = Math.floor(Date.now() / 1000);
    for (const [offset, word] of [
      [3600, "ahead of"],
      [-3600, "behind"],
    ] as const) {
      const { body } = await plane.enrol(token, { claims: { iat: seconds + offset } });
      expect(body).toMatchObject({ code: "clock_skew" });
      expect(body["detail"]).toContain(word);
      expect(Math.abs(Number((body["facts"] as Record<string, unknown>)["offsetMs"]) - offset * 1000)).toBeLessThan(
        5000,
      );
    }
    expect((await plane.enrol(token)).status).toBe(200);
  });

  test("an agent of another protocol", async () => {
    const answer = await plane.enrol(await plane.makeToken(), { claims: { protocolVersion: 99 } });
    expect(answer).toMatchObject({ status: 426, body: { code: "protocol_unsupported" } });
  });
});

describe("a key and its certificate", () => {
  test("the same token and key again get the same certificate", async () => {
    const [token, key] = [await plane.makeToken(), makeP256Key()];
    const first = await plane.enrol(token, { key });
    // Also after the token's own life: the answer may have been lost for long.
    await age(token);
    expect((await plane.enrol(token, { key })).body["certificateChain"]).toBe(first.body["certificateChain"]);
  });

  test("the same key with a new token is the same node: the operator thought that the first was lost", async () => {
    const key = makeP256Key();
    const first = await plane.enrol(await plane.makeToken(), { key });
    const second = await plane.makeToken();
    expect((await plane.enrol(second, { key })).body["certificateChain"]).toBe(first.body["certificateChain"]);
    expect((await plane.enrol(second)).body["code"]).toBe("bootstrap_token_used");
  });

  test("the key of a revoked node does not come back with a new token", async () => {
    const key = makeP256Key();
    const { body } = await plane.enrol(await plane.makeToken(), { key });
    await plane.asOperator("POST", `/api/ops/v1/nodes/${String(body["nodeId"])}/revoke`, {});
    const token = await plane.makeToken();
    expect((await plane.enrol(token, { key })).body["code"]).toBe("proof_invalid");
    expect((await plane.enrol(token)).status).toBe(200);
  });

  test("a hundred hosts with one token at once make one node", { timeout: 60_000 }, async () => {
    const token = await plane.makeToken();
    const before = await countNodes();
    const answers = await Promise.all(Array.from({ length: 100 }, async () => await plane.enrol(token)));
    const codes = answers.map(({ status, body }) => (status === 200 ? "enrolled" : body["code"]));
    expect(codes.filter((code) => code === "enrolled")).toHaveLength(1);
    expect(codes.filter((code) => code === "bootstrap_token_used")).toHaveLength(99);
    expect(await countNodes()).toBe(before + 1);
  });

  test("what the host calls itself reaches no field of its certificate", async () => {
    const token = await plane.makeToken();
    for (const hostName of [
      "evil,URI:spiffe://test.internal/node/x",
      "a\u0000b",
      "a\ud800b",
      "\u001b]0;owned\u0007",
      "",
    ])
      expect((await plane.enrol(token, { claims: { hostName } })).body["code"]).toBe("proof_invalid");
    const { body } = await plane.enrol(token, { claims: { hostName: "evil.test.internal_node-x" } });
    const leaf = new X509Certificate(String(body["certificateChain"]));
    expect(leaf.subject).toBe(`CN=${String(body["nodeId"])}`);
    expect(leaf.subjectAltName).toBe(`URI:spiffe://test.internal/node/${String(body["nodeId"]).slice(5)}`);
  });
});

test("a stranger's endless body is refused early, whatever length it claims", async () => {
  const sending = request({
    host: "127.0.0.1",
    port: plane.enrolPort,
    path: NODE_PATHS.enrol,
    method: "POST",
    ca: plane.pki.authority.trustBundlePem,
    servername: serverNameOf("test.internal"),
    headers: { "content-type": "application/json" },
  });
  // Without a length it is sent in chunks.
  for (let sent = 0; sent < 64; sent += 1) sending.write(Buffer.alloc(1024, "x"));
  sending.end();
  const [answer] = (await once(sending, "response")) as [{ statusCode: number; resume(): void }];
  answer.resume();
  expect(answer.statusCode).toBe(413);
});

async function age(token: string): Promise<void> {
  await plane.sql`update bootstrap_tokens set expires_at = now() - interval '1 second' where id = ${parseBootstrapToken(token).id}`;
}

async function countNodes(): Promise<number> {
  const [row] = await plane.sql<{ count: number }[]>`select count(*)::int as count from nodes`;
  return row?.count ?? 0;
}
