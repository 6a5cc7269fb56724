import { createPublicKey, X509Certificate } from "node:crypto";
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findPinnedRoot, makeP256Key, parsePemChain, pemOf } from "@hostler/pki";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readOrMakeFile } from "./key-files.ts";
import type { Pki } from "./open-pki.ts";
import { makeMemoryTrustStore, openTestPki } from "./test-pki.ts";
import type { TrustStore } from "./trust-store.ts";

let stateDir: string;
let store: TrustStore;
beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "hostler-ca-"));
  store = makeMemoryTrustStore();
});
afterEach(async () => await rm(stateDir, { recursive: true, force: true }));

async function open(passphrase: string | null = null): Promise<Pki> {
  return await openTestPki({ stateDir, store, passphrase });
}
const inPki = (name: string): string => join(stateDir, "pki", name);

describe("the authority's files", () => {
  test("are made on the first start and used by the next", async () => {
    const [first, second] = [await open(), await open()];
    expect(second.authority.pin).toBe(first.authority.pin);
    expect(second.authority.nodeAuthorityPem).toBe(first.authority.nodeAuthorityPem);
    expect(second.trust.bundle).toEqual(first.trust.bundle);
  });

  test("are for their owner only", async () => {
    await open();
    expect((await stat(join(stateDir, "pki"))).mode & 0o777).toBe(0o700);
    const keys = (await readdir(join(stateDir, "pki"))).filter((name) => name.endsWith(".key"));
    expect(keys.toSorted()).toEqual(["node-ca.key", "root.key", "server-ca.key"]);
    for (const key of keys) expect((await stat(inPki(key))).mode & 0o777).toBe(0o600);
  });

  test("are the same for replicas that start at the same moment", async () => {
    const replicas = await Promise.all(Array.from({ length: 8 }, async () => await open()));
    expect(new Set(replicas.map(({ authority }) => authority.pin)).size).toBe(1);
    expect(new Set(replicas.map(({ authority }) => authority.nodeAuthorityPem)).size).toBe(1);
    expect((await readdir(join(stateDir, "pki"))).filter((name) => name.endsWith(".new"))).toEqual([]);
  });

  test("are made after a crash in the middle of the first start", async () => {
    await expect(
      readOrMakeFile(inPki("root.key"), () => {
        throw new Error("killed");
      }),
    ).rejects.toThrow("killed");
    // What a kill leaves behind, under the name that the first try had.
    for (const name of ["root.key.1.new", `root.key.${process.pid}.new`]) await writeFile(inPki(name), "half a k");
    await expect(open()).resolves.toBeDefined();
  });

  test("of two different authorities are refused: half a backup was restored", async () => {
    await open();
    await rm(inPki("server-ca.key"));
    await expect(open()).rejects.toThrow(/server-ca\.pem is not the certificate of .*Restore/);
  });
});

describe("a passphrase", () => {
  test("encrypts every key, and opens them again", async () => {
    const { authority } = await open("correct horse");
    const keys = ["root", "node-ca", "server-ca"].map((name) => inPki(`${name}.key`));
    for (const path of [...keys, join(stateDir, "signer/task-signing-1.key")])
      expect(await readFile(path, "utf8")).toContain("BEGIN ENCRYPTED PRIVATE KEY");
    expect((await open("correct horse")).authority.pin).toBe(authority.pin);
  });

  test("that is wrong, missing or new says so, and never what it is", async () => {
    await open("correct horse");
    await expect(open("battery staple")).rejects.toThrow(/passphrase does not open .*root\.key/);
    await expect(open("battery staple")).rejects.not.toThrow(/staple/);
    await expect(open()).rejects.toThrow(/is encrypted.*HOSTLER_CA_PASSPHRASE/);
    await rm(join(stateDir, "pki"), { recursive: true });
    await rm(join(stateDir, "signer"), { recursive: true });
    store = makeMemoryTrustStore();
    await open();
    await expect(open("correct horse")).rejects.toThrow(/is not encrypted although a passphrase is set/);
  });

  test("cannot open a key that is damaged", async () => {
    await open();
    await writeFile(inPki("root.key"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    await expect(open()).rejects.toThrow(/damaged/);
  });
});

test("keys that were made anew under bundles that exist are refused: every host would be lost", async () => {
  await open();
  await rm(join(stateDir, "pki"), { recursive: true });
  await expect(open()).rejects.toThrow(/not those of the trust bundles.*Restore/);
});

describe("what the authority issues", () => {
  test("a server's chain carries the pinned root", async () => {
    const pki = await open();
    const { chainPem } = pki.issueServerCertificate();
    const chain = parsePemChain(chainPem);
    expect(chain).toHaveLength(3);
    expect(pemOf(findPinnedRoot(chain, pki.authority.pin).raw)).toBe(pki.authority.trustBundlePem);
    expect(chain[0]?.subjectAltName).toBe("DNS:control-plane.test.internal");
  });

  test("a node's certificate begins five minutes ago, ends in a day, and chains to the node CA", async () => {
    const { authority } = await open();
    const publicKey = createPublicKey(makeP256Key());
    const issued = await authority.issueNodeCertificate({ nodeId: newId("node", systemClock), publicKey });
    const [leaf, issuer] = parsePemChain(issued.chainPem);
    if (leaf === undefined || issuer === undefined) throw new Error("a chain of two");
    const seconds = (date: Date): number => Math.round((date.getTime() - Date.now()) / 1000);
    expect(Math.abs(seconds(leaf.validFromDate) + 300)).toBeLessThan(5);
    expect(Math.abs(seconds(leaf.validToDate) - 86_400)).toBeLessThan(5);
    expect(leaf.serialNumber).toBe(issued.serial);
    expect(leaf.serialNumber).toMatch(/^[0-9A-F]{32}$/);
    expect(leaf.verify(issuer.publicKey)).toBe(true);
    expect(issuer.verify(new X509Certificate(authority.trustBundlePem).publicKey)).toBe(true);
  });
});
