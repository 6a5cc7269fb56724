import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connect, type TLSSocket } from "node:tls";
import { serverNameOf } from "@hostler/pki";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Pki } from "./open-pki.ts";
import { makeMemoryTrustStore, openTestPki } from "./test-pki.ts";
import { enrolTlsOptions, nodeTlsOptions } from "./tls-options.ts";

let stateDir: string;
let pki: Pki;
const servers: Server[] = [];
beforeAll(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "hostler-tls-"));
  pki = await openTestPki({ stateDir, store: makeMemoryTrustStore() });
});
afterAll(async () => {
  for (const server of servers) server.close();
  await rm(stateDir, { recursive: true, force: true });
});

async function dial(server: Server, options: object = {}): Promise<TLSSocket> {
  const { port } = server.address() as AddressInfo;
  const servername = serverNameOf("test.internal");
  const socket = connect({ host: "127.0.0.1", port, ca: pki.authority.trustBundlePem, servername, ...options });
  await once(socket, "secureConnect");
  return socket;
}

describe.each([
  ["enrol", enrolTlsOptions],
  ["node", nodeTlsOptions],
] as const)("the %s listener", (_, build) => {
  test("speaks TLS 1.3 and nothing older, before a reload of its certificate and after", async () => {
    const server = createServer(build(pki)).listen(0, "127.0.0.1");
    servers.push(server);
    await once(server, "listening");
    const serials: string[] = [];
    for (const round of ["before", "after"]) {
      const socket = await dial(server);
      expect(socket.getProtocol(), round).toBe("TLSv1.3");
      serials.push(socket.getPeerCertificate().serialNumber);
      socket.destroy();
      await expect(dial(server, { maxVersion: "TLSv1.2" }), round).rejects.toThrow(/protocol version/i);
      server.setSecureContext(build(pki));
    }
    expect(serials[0]).not.toBe(serials[1]);
  });

  test("is refused by who trusts another root or expects another name", async () => {
    const server = createServer(build(pki)).listen(0, "127.0.0.1");
    servers.push(server);
    await once(server, "listening");
    await expect(dial(server, { ca: [] })).rejects.toThrow();
    await expect(dial(server, { servername: "control-plane.elsewhere" })).rejects.toThrow(/altnames/i);
  });
});
