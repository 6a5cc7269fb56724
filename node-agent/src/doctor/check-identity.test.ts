import { generateKeyPairSync } from "node:crypto";
import { chmod, mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { makeEd25519Key, makeP256Key } from "@hostler/pki";
import { describe, expect, test } from "vitest";
import { makeTestAuthority } from "../identity/test-control-plane.ts";
import { closedAddress, examine, makeEnrolledHost, makeStateDir, startPlane } from "./test-host.ts";

const authority = makeTestAuthority();

describe("a host that is not enrolled", () => {
  test("is told how to enrol; the checks of an identity are skipped, those of the host are not", async () => {
    const report = await examine(await makeStateDir());
    expect(report.code).toBe(1);
    expect(report.of("enrolled")).toMatchObject([
      { verdict: "problem", remedy: expect.stringContaining("hostler-agent enroll --server") },
    ]);
    for (const check of ["key", "certificate", "trust", "clock", "dns", "port", "server", "accepted"])
      expect(report.of(check)).toMatchObject([{ verdict: "skipped" }]);
    expect(report.of("programs")).toMatchObject([{ verdict: "ok" }]);
  });
});

describe("the identity file", () => {
  async function makeHostWith(text: (whole: string) => string): Promise<string> {
    const stateDir = await makeEnrolledHost(authority, await closedAddress());
    const path = join(stateDir, "identity.json");
    await writeFile(path, text(await readFile(path, "utf8")));
    return stateDir;
  }

  test.each([
    ["empty", () => "", "it is empty"],
    ["torn", (whole: string) => whole.slice(0, 40), "it is not JSON"],
    ["of another program", () => "{}", "missing or wrong in it: privateKey, identity, server"],
    ["without its listener", (whole: string) => whole.replace("nodeListener", "x"), "identity.nodeListener"],
    ["with an odd address", (whole: string) => whole.replaceAll("127.0.0.1:", "127.0.0.1/"), "not host:port"],
  ])("%s is damaged, and the words for it hold nothing of the key", async (_name, change, text) => {
    const report = await examine(await makeHostWith(change));
    expect(report.of("enrolled")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining(text), remedy: expect.stringContaining("backup") },
    ]);
    expect(JSON.stringify(report.findings)).not.toContain("BEGIN");
    expect(report.of("port")).toMatchObject([{ verdict: "skipped" }]);
  });

  test("that the disk does not give is told apart from one that is not there", async () => {
    const stateDir = await makeStateDir();
    await mkdir(join(stateDir, "identity.json"));
    expect((await examine(stateDir)).of("enrolled")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("cannot be read (EISDIR)") },
    ]);
  });

  test("that others may read is a problem", async () => {
    const stateDir = await makeEnrolledHost(authority, await closedAddress());
    await chmod(join(stateDir, "identity.json"), 0o644);
    expect((await examine(stateDir)).of("key")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("mode 0644"), remedy: expect.stringContaining("chmod 600") },
    ]);
  });
});

describe("the private key", () => {
  test("of another certificate is named, and the two are not tried on the control plane", async () => {
    const { address, seen } = await startPlane(authority);
    const stateDir = await makeEnrolledHost(authority, address, (stored) => ({
      ...stored,
      privateKey: makeP256Key(),
    }));
    const report = await examine(stateDir);
    expect(report.of("key")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("belongs to another certificate") },
    ]);
    expect(report.of("accepted")).toMatchObject([{ verdict: "skipped" }]);
    expect(seen.some(({ hasCertificate }) => hasCertificate)).toBe(false);
  });

  test.each([
    ["Ed25519", makeEd25519Key()],
    ["P-384", generateKeyPairSync("ec", { namedCurve: "secp384r1" }).privateKey],
  ])("of the kind %s is not a node's", async (_kind, privateKey) => {
    const stateDir = await makeEnrolledHost(authority, await closedAddress(), (stored) => ({ ...stored, privateKey }));
    expect((await examine(stateDir)).of("key")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("not a P-256 key") },
    ]);
  });

  test("that cannot be read is named apart from a damaged file", async () => {
    const stateDir = await makeEnrolledHost(authority, await closedAddress());
    const path = join(stateDir, "identity.json");
    const whole = JSON.parse(await readFile(path, "utf8")) as Record<string, unknown>;
    await writeFile(path, JSON.stringify({ ...whole, privateKey: "-----BEGIN PRIVATE KEY-----\nAAAA" }));
    const report = await examine(stateDir);
    expect(report.of("enrolled")).toMatchObject([{ verdict: "ok" }]);
    expect(report.of("key")).toMatchObject([{ verdict: "problem", text: expect.stringContaining("cannot be read") }]);
  });
});
