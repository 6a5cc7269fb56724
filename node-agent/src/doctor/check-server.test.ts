import { formatBootstrapToken, makeBootstrapToken } from "@hostler/pki";
import { createServer as createHttp } from "node:http";
import { describe, expect, test } from "vitest";
import { around, listen, makeStoredIdentity, makeTestAuthority } from "../identity/test-control-plane.ts";
import { examine, makeEnrolledHost, makeStateDir, startPlane, startTcp, type Report } from "./test-host.ts";

const HOUR_MS = 3_600_000;
const authority = makeTestAuthority();
const limits = { stepMs: 500, totalMs: 4000 };

async function reportOf(address: string): Promise<Report> {
  return await examine(await makeEnrolledHost(authority, address), { limits });
}

/** The first listener is the node's. */
function serverProblem(text: string) {
  return expect.objectContaining({ verdict: "problem", text: expect.stringContaining(text) });
}

describe("a server that is not ours", () => {
  test("by its root is another control plane or a proxy, and sees no certificate of this node", async () => {
    const { address, seen } = await startPlane(makeTestAuthority());
    const report = await reportOf(address);
    expect(report.of("server")[0]).toEqual(serverProblem("another control plane or a TLS-terminating proxy"));
    expect(report.of("accepted")).toMatchObject([{ verdict: "skipped" }]);
    expect(seen).toEqual([]);
  });

  test("but shows our root, which is public, in its own chain is not believed", async () => {
    const { key, cert } = makeTestAuthority().serverTls();
    const { address } = await startPlane(authority, { tls: { key, cert: cert + authority.rootPem } });
    expect((await reportOf(address)).of("server")[0]).toEqual(serverProblem("is not ours"));
  });

  test("but a node of ours is not believed", async () => {
    const node = makeStoredIdentity(authority, "x:1");
    const tls = { key: node.privateKeyPem, cert: node.identity.certificateChain };
    const { address } = await startPlane(authority, { tls });
    expect((await reportOf(address)).of("server")[0]).toEqual(serverProblem("its certificate is not a server's"));
  });

  test("by its name is another control plane of our root", async () => {
    const { address } = await startPlane(authority);
    const stateDir = await makeEnrolledHost(authority, address, (stored) => ({
      ...stored,
      identity: { ...stored.identity, trustDomain: "other.internal" },
    }));
    expect((await examine(stateDir)).of("server")[0]).toEqual(serverProblem("for another name"));
  });
});

describe("a server's certificate", () => {
  test.each([
    ["has expired", around(-2 * HOUR_MS, -HOUR_MS), "that expired at", "restart the control plane"],
    ["has not begun", around(HOUR_MS, 2 * HOUR_MS), "that begins at", "timedatectl"],
  ])("that %s is named", async (_name, validity, text, remedy) => {
    const { address } = await startPlane(authority, { tls: authority.serverTls(validity) });
    const report = await reportOf(address);
    expect(report.of("server")[0]).toMatchObject({
      verdict: "problem",
      text: expect.stringContaining(text),
      remedy: expect.stringContaining(remedy),
    });
    expect(report.of("clock")).toMatchObject([{ verdict: "ok" }]);
  });
});

describe("a port of something else", () => {
  test("that answers in plain HTTP is named", async () => {
    const server = createHttp((_request, response) => void response.end("hello"));
    const address = await listen(server as never);
    const report = await reportOf(address);
    server.closeAllConnections();
    server.close();
    expect(report.of("server")[0]).toEqual(serverProblem("answers in plain HTTP"));
  });

  test("that speaks another language is not taken for a web server", async () => {
    const address = await startTcp((socket) => void socket.write("SSH-2.0-OpenSSH_9.2p1\r\n"));
    expect((await reportOf(address)).of("server")[0]).toEqual(serverProblem("does not speak TLS"));
  });

  test("that takes the connection and says nothing is named", async () => {
    const report = await reportOf(await startTcp(() => undefined));
    expect(report.of("port")[0]).toMatchObject({ verdict: "ok" });
    expect(report.of("server")[0]).toEqual(serverProblem("then says nothing"));
  });

  test("that closes at once is named", async () => {
    const address = await startTcp((socket) => socket.once("data", () => socket.destroy()));
    expect((await reportOf(address)).of("server")[0]).toEqual(serverProblem("closes the connection"));
  });

  test("that speaks only older TLS is named", async () => {
    const { address } = await startPlane(authority, { tls: { maxVersion: "TLSv1.2" } });
    expect((await reportOf(address)).of("server")[0]).toEqual(serverProblem("does not speak TLS 1.3"));
  });
});

describe("an enrolment that is still to come", () => {
  const token = makeBootstrapToken(authority.pin);
  const words = (server: string, text = formatBootstrapToken(token)) => ["--server", server, "--token", text];

  test("to the server of the token has nothing against it, and the token stays here", async () => {
    const { address, seen } = await startPlane(authority);
    const report = await examine(await makeStateDir(), {}, words(address));
    expect(report.of("enrolled")).toMatchObject([{ verdict: "ok" }]);
    expect(report.of("clock")).toMatchObject([{ verdict: "ok" }]);
    expect(report.of("server")).toMatchObject([{ verdict: "ok", text: expect.stringContaining("the token pins") }]);
    expect(report.code).toBe(0);
    expect(new Set(seen.map(({ method, path }) => `${method} ${path}`))).toEqual(new Set(["GET /doctor/clock"]));
    expect(JSON.stringify(report.findings)).not.toContain(token.secret);
  });

  test("to another server than the token's is stopped at the pin", async () => {
    const { address, seen } = await startPlane(makeTestAuthority());
    const report = await examine(await makeStateDir(), {}, words(address));
    expect(report.of("server")).toEqual([serverProblem("the root that the token pins")]);
    expect(report.code).toBe(1);
    expect(seen).toEqual([]);
  });

  test("with a torn token is named, and the rest is still looked at", async () => {
    const { address } = await startPlane(authority);
    const report = await examine(await makeStateDir(), {}, words(address, "hst1.abc"));
    expect(report.of("token")).toMatchObject([{ verdict: "problem", remedy: expect.stringContaining("four parts") }]);
    expect(report.of("port")).toMatchObject([{ verdict: "ok" }]);
    expect(report.of("server")).toMatchObject([{ verdict: "skipped" }]);
  });

  test("of a host that is enrolled already is a problem", async () => {
    const { address } = await startPlane(authority);
    const report = await examine(await makeEnrolledHost(authority, address), {}, words(address));
    expect(report.of("enrolled")).toEqual([serverProblem("enrolled already")]);
  });

  test("without a port in --server is refused at once", async () => {
    await expect(examine(await makeStateDir(), {}, words("cloud.test"))).rejects.toMatchObject({
      code: "malformed_request",
    });
    await expect(examine(await makeStateDir(), {}, ["--server", "x:1"])).rejects.toMatchObject({
      code: "malformed_request",
    });
  });
});
