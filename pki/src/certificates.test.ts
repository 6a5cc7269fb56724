import { execFile } from "node:child_process";
import { createPublicKey, X509Certificate } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  issueIntermediate,
  issueNodeLeaf,
  issueRoot,
  issueServerLeaf,
  makeP256Key,
  makeSerial,
  nodeIdOfAltName,
  pemOf,
} from "./index.ts";

const execute = promisify(execFile);
const DOMAIN = "test.internal";
const NODE_ID = "node_01900000-0000-7000-8000-000000000001";
const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3_600_000) };
const root = { name: "Test root", key: makeP256Key() };
const nodeAuthority = { name: "Test node CA", key: makeP256Key() };
const serverAuthority = { name: "Test server CA", key: makeP256Key() };
const nodeKey = makeP256Key();
const serial = makeSerial();
const ders = {
  root: issueRoot(root, validity),
  nodeAuthority: issueIntermediate({ root, subject: nodeAuthority, validity }),
  serverAuthority: issueIntermediate({ root, subject: serverAuthority, validity }),
  node: issueNodeLeaf({
    issuer: nodeAuthority,
    publicKey: createPublicKey(nodeKey),
    trustDomain: DOMAIN,
    nodeId: NODE_ID,
    serial,
    validity,
  }),
  server: issueServerLeaf({
    issuer: serverAuthority,
    publicKey: createPublicKey(makeP256Key()),
    trustDomain: DOMAIN,
    validity,
  }),
};
let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "hostler-pki-"));
  for (const [name, der] of Object.entries(ders)) await writeFile(join(dir, `${name}.pem`), pemOf(der));
});
afterAll(async () => await rm(dir, { recursive: true, force: true }));

async function opensslVerify(leaf: string, intermediate: string, purpose: string): Promise<boolean> {
  const path = (name: string): string => join(dir, `${name}.pem`);
  return await execute("openssl", [
    "verify",
    "-x509_strict",
    "-purpose",
    purpose,
    "-CAfile",
    path("root"),
    "-untrusted",
    path(intermediate),
    path(leaf),
  ]).then(
    () => true,
    () => false,
  );
}

async function certtoolVerify(trusted: string): Promise<boolean> {
  const path = (name: string): string => join(dir, `${name}.pem`);
  const args = ["--verify", "--load-ca-certificate", path(trusted), "--infile", path("chain")];
  return await execute("certtool", args).then(
    () => true,
    () => false,
  );
}

describe("certificates", () => {
  test("openssl accepts both chains under strict rules", async () => {
    expect(await opensslVerify("node", "nodeAuthority", "sslclient")).toBe(true);
    expect(await opensslVerify("server", "serverAuthority", "sslserver")).toBe(true);
  });

  test("GnuTLS accepts both chains, and not with another root", async () => {
    for (const [leaf, intermediate] of [
      ["node", "nodeAuthority"],
      ["server", "serverAuthority"],
    ] as const) {
      await writeFile(join(dir, "chain.pem"), pemOf(ders[leaf]) + pemOf(ders[intermediate]));
      expect(await certtoolVerify("root")).toBe(true);
      expect(await certtoolVerify("nodeAuthority")).toBe(leaf === "node");
    }
    await writeFile(join(dir, "stranger.pem"), pemOf(issueRoot({ name: "Test root", key: makeP256Key() }, validity)));
    expect(await certtoolVerify("stranger")).toBe(false);
  });

  test("a node's certificate is no server and a server's is no client", async () => {
    expect(await opensslVerify("node", "nodeAuthority", "sslserver")).toBe(false);
    expect(await opensslVerify("server", "serverAuthority", "sslclient")).toBe(false);
  });

  test("a leaf cannot sign", async () => {
    const forged = issueNodeLeaf({
      issuer: { name: NODE_ID, key: nodeKey },
      publicKey: createPublicKey(makeP256Key()),
      trustDomain: DOMAIN,
      nodeId: NODE_ID,
      serial: makeSerial(),
      validity,
    });
    await writeFile(join(dir, "forged.pem"), pemOf(forged));
    expect(await opensslVerify("forged", "node", "sslclient")).toBe(false);
  });

  test("the node's certificate carries our serial and one SPIFFE name", () => {
    const certificate = new X509Certificate(ders.node);
    expect(certificate.serialNumber).toBe(serial);
    expect(nodeIdOfAltName(certificate.subjectAltName, DOMAIN)).toBe(NODE_ID);
    expect(nodeIdOfAltName(`${certificate.subjectAltName}, DNS:x`, DOMAIN)).toBeNull();
    expect(certificate.checkPrivateKey(nodeKey)).toBe(true);
  });
});
