import { createServer as createHttps, type Server as HttpsServer } from "node:https";
import { createServer as createTcp } from "node:net";
import { text } from "node:stream/consumers";
import { createServer as createTls, type Server as TlsServer } from "node:tls";
import { formatBootstrapToken, keyThumbprint, makeBootstrapToken, verifyEnrolProof } from "@hostler/pki";
import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import { AppError, type ErrorCode } from "@hostler/shared/errors.ts";
import { problemOf } from "@hostler/shared/problem.ts";
import { afterEach, describe, expect, test } from "vitest";
import { makeMemoryFiles } from "../testing/memory-files.ts";
import { enrol } from "./enrol.ts";
import { readIdentity, type StoredIdentity } from "./identity-files.ts";
import { around, listen, makeStoredIdentity, makeTestAuthority } from "./test-control-plane.ts";

const HOUR_MS = 3_600_000;
const NODE_ID = "node_01900000-0000-7000-8000-000000000001";
const authority = makeTestAuthority();
const token = makeBootstrapToken(authority.pin);
const servers: { close(): unknown }[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

async function enrolAt(
  server: string,
  options: {
    readonly files?: ReturnType<typeof makeMemoryFiles>;
    readonly clock?: Clock;
    readonly token?: ReturnType<typeof makeBootstrapToken>;
  } = {},
): Promise<StoredIdentity> {
  const deps = { files: options.files ?? makeMemoryFiles(), clock: options.clock ?? systemClock };
  return await enrol(deps, {
    server,
    token: formatBootstrapToken(options.token ?? token),
    hostName: "host",
    agentVersion: "test",
  });
}

/** An enrol listener that answers as it is told, and the thumbprints of the keys that asked. */
async function startEnrolServer(
  answer: "identity" | "nothing" | ErrorCode | (() => "identity" | "nothing" | ErrorCode),
) {
  const keys: string[] = [];
  const server: HttpsServer = createHttps(authority.serverTls(), (request, response) => {
    void (async () => {
      const { proof } = JSON.parse(await text(request)) as { proof: string };
      const { publicKey, claims } = await verifyEnrolProof(proof);
      expect(claims).toMatchObject({ tokenId: token.id, tokenSecret: token.secret, hostName: "host" });
      keys.push(keyThumbprint(publicKey));
      const wanted = typeof answer === "function" ? answer() : answer;
      if (wanted === "nothing") response.destroy();
      else if (wanted === "identity")
        response.end(JSON.stringify(authority.identityFor(publicKey, NODE_ID, "127.0.0.1:1")));
      else {
        const problem = problemOf(new AppError(wanted, { detail: "as the test says" }), "req");
        response.writeHead(problem.status).end(JSON.stringify(problem));
      }
    })();
  });
  servers.push(server);
  return { keys, address: await listen(server) };
}

/** What a stranger may hear: the question whom to trust, which carries nothing of the token. */
const ONLY_TRUST = /^(?:GET \/enrol\/v1\/trust\?after=0 HTTP\/1\.1\r\n(?:host|connection)[^]*\r\n\r\n)?$/;

/** A TLS server that only listens: `heard` is every decrypted byte that a client said. */
async function startTap(
  tls: () => { key: string; cert: string },
): Promise<{ heard(): string; visits(): number; address: string }> {
  const bytes: Buffer[] = [];
  let visits = 0;
  const server: TlsServer = createTls(tls(), (socket) => {
    socket.on("data", (data: Buffer) => bytes.push(data)).on("error", () => undefined);
  });
  // The connection under way has its certificate; this is for the next one.
  server.on("connection", () => {
    visits += 1;
    server.setSecureContext(tls());
  });
  servers.push(server);
  return { heard: () => Buffer.concat(bytes).toString("latin1"), visits: () => visits, address: await listen(server) };
}

describe("enrolment", () => {
  test("writes key and chain in one file and forgets the pending key", async () => {
    const files = makeMemoryFiles();
    const { address } = await startEnrolServer("identity");
    const stored = await enrolAt(address, { files });
    expect([...files.texts.keys()]).toEqual(["identity.json"]);
    expect(await readIdentity(files)).toMatchObject({ identity: { nodeId: NODE_ID }, server: address });
    expect(files.texts.get("identity.json")).not.toContain(token.secret);
    expect(stored.identity.trustBundle).toBe(authority.rootPem);
  });

  test("whose answer was lost asks again with the same key", async () => {
    const files = makeMemoryFiles();
    const answers = ["nothing", "nothing", "identity"] as const;
    let round = 0;
    const { address, keys } = await startEnrolServer(() => answers[round++] ?? "nothing");
    for (let lost = 0; lost < 2; lost += 1)
      await expect(enrolAt(address, { files })).rejects.toMatchObject({
        code: "service_unavailable",
        detail: expect.stringContaining("not used up"),
      });
    await enrolAt(address, { files });
    expect(new Set(keys).size).toBe(1);
  });

  test("whose key the server will never take asks with another the next time", async () => {
    const files = makeMemoryFiles();
    let round = 0;
    const { address, keys } = await startEnrolServer(() => (round++ === 0 ? "proof_invalid" : "identity"));
    await expect(enrolAt(address, { files })).rejects.toMatchObject({ code: "proof_invalid" });
    await enrolAt(address, { files });
    expect(new Set(keys).size).toBe(2);
  });

  test.each<ErrorCode>(["bootstrap_token_used", "bootstrap_token_expired", "clock_skew", "node_revoked"])(
    "passes on the refusal %s",
    async (code) => {
      const { address } = await startEnrolServer(code);
      await expect(enrolAt(address)).rejects.toMatchObject({ code, detail: "as the test says" });
    },
  );

  test("with the same token again is done already: the first time may have been killed at its very end", async () => {
    const files = makeMemoryFiles();
    const { address, keys } = await startEnrolServer("identity");
    const first = await enrolAt(address, { files });
    await files.replace("enrol-key.pem", "what a kill left behind");
    expect((await enrolAt(address, { files })).identity).toEqual(first.identity);
    expect([[...files.texts.keys()], keys.length]).toEqual([["identity.json"], 1]);
  });

  test("of an enrolled host with another token is refused, and its identity kept", async () => {
    const files = makeMemoryFiles();
    const { address } = await startEnrolServer("identity");
    await enrolAt(address, { files });
    const before = files.texts.get("identity.json");
    const other = makeBootstrapToken(authority.pin);
    await expect(enrolAt(address, { files, token: other })).rejects.toMatchObject({
      code: "conflict",
      detail: expect.stringContaining(NODE_ID),
    });
    expect(files.texts.get("identity.json")).toBe(before);
  });
});

describe("nothing is said to", () => {
  test("a server of another authority", async () => {
    const tap = await startTap(() => makeTestAuthority().serverTls());
    await expect(enrolAt(tap.address)).rejects.toMatchObject({ code: "pin_mismatch" });
    expect(tap.heard()).toMatch(ONLY_TRUST);
    expect(tap.heard()).not.toContain(token.secret);
  });

  test("a server that adds our root, which is public, to its own chain", async () => {
    const { key, cert } = makeTestAuthority().serverTls();
    const tap = await startTap(() => ({ key, cert: cert + authority.rootPem }));
    await expect(enrolAt(tap.address)).rejects.toMatchObject({ code: "pin_mismatch" });
    expect(tap.heard()).toMatch(ONLY_TRUST);
  });

  test("a server that shows the right chain first and another one then", async () => {
    const chains = [authority.serverTls(), makeTestAuthority().serverTls()];
    const tap = await startTap(() => chains.shift() ?? makeTestAuthority().serverTls());
    await expect(enrolAt(tap.address)).rejects.toMatchObject({ code: "pin_mismatch" });
    expect(tap.visits()).toBeGreaterThanOrEqual(2);
    expect(tap.heard()).toMatch(ONLY_TRUST);
  });

  test("a node that poses as the server: its certificate is for clients", async () => {
    const thief = makeStoredIdentity(authority, "x:1");
    const chain = thief.identity.certificateChain + authority.rootPem;
    const tap = await startTap(() => ({ key: thief.privateKeyPem, cert: chain }));
    await expect(enrolAt(tap.address)).rejects.toMatchObject({ code: "pin_mismatch" });
    expect(tap.visits()).toBeGreaterThanOrEqual(2);
    expect(tap.heard()).toMatch(ONLY_TRUST);
  });
});

describe("a clock that is off", () => {
  test.each([
    ["behind", HOUR_MS, 2 * HOUR_MS],
    ["ahead of", -2 * HOUR_MS, -HOUR_MS],
  ])("%s the server's certificate is named, with the offset, before anything is said", async (word, fromMs, toMs) => {
    const tap = await startTap(() => authority.serverTls(around(fromMs, toMs)));
    const error = await enrolAt(tap.address).catch((failure: unknown) => failure);
    expect(error).toMatchObject({ code: "clock_skew", detail: expect.stringContaining(`s ${word}`) });
    const offsetMs = Number((error as AppError).facts["offsetMs"]);
    expect(Math.abs(Math.abs(offsetMs) - HOUR_MS)).toBeLessThan(10_000);
    expect(tap.heard()).toMatch(ONLY_TRUST);
  });
});

describe("what cannot be an enrol listener says how to correct it", () => {
  test.each(["cloud.example.org", "http://x:1", "x:99999", "x:0", "a b:1"])("--server %s", async (server) => {
    await expect(enrolAt(server)).rejects.toMatchObject({
      code: "malformed_request",
      detail: expect.stringContaining("host:port"),
    });
  });

  test("a port where nobody listens, and one that speaks no TLS", async () => {
    const closed = createTcp();
    const address = await listen(closed as never);
    closed.close();
    await expect(enrolAt(address)).rejects.toMatchObject({
      code: "service_unavailable",
      detail: expect.stringContaining("cannot be reached"),
    });
    const plain = createTcp((socket) => void socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
    servers.push(plain);
    await expect(enrolAt(await listen(plain as never))).rejects.toMatchObject({ code: "service_unavailable" });
  });
});
