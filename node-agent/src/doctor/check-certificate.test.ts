import { describe, expect, test } from "vitest";
import type { IdentityAnswer } from "@hostler/shared/node-protocol.ts";
import { lockStateDir } from "../host/state-lock.ts";
import { around, makeTestAuthority } from "../identity/test-control-plane.ts";
import { examine, makeEnrolledHost, makeShiftedClock, startPlane } from "./test-host.ts";

const HOUR_MS = 3_600_000;
const authority = makeTestAuthority();

async function makeHostWith(change: Partial<IdentityAnswer>): Promise<string> {
  const { address } = await startPlane(authority);
  return await makeEnrolledHost(authority, address, (stored) => ({
    ...stored,
    identity: { ...stored.identity, ...change },
  }));
}

describe("the certificate", () => {
  test("that has expired by a right clock says since when and how long", async () => {
    const shiftMs = 3 * HOUR_MS;
    const { address } = await startPlane(authority, { shiftMs });
    const stateDir = await makeEnrolledHost(authority, address);
    const report = await examine(stateDir, { clock: makeShiftedClock(shiftMs) });
    expect(report.of("clock")).toMatchObject([{ verdict: "ok" }]);
    expect(report.of("certificate")).toMatchObject([
      {
        verdict: "problem",
        text: expect.stringMatching(/expired at \d{4}-.*Z, (?:2\.0 h|119\.\d min|120\.0 min) ago/),
        remedy: expect.stringContaining("hostler-agent enroll"),
      },
    ]);
  });

  test("of another node, or of no node of this cloud, is named", async () => {
    const other = "node_01900000-0000-7000-8000-00000000000f";
    expect((await examine(await makeHostWith({ nodeId: other }))).of("certificate")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining(`the identity is ${other}`) },
    ]);
    expect((await examine(await makeHostWith({ trustDomain: "other.internal" }))).of("certificate")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("names no node of this cloud") },
    ]);
  });

  test("of another root than the trusted one is named", async () => {
    const report = await examine(await makeHostWith({ trustBundle: makeTestAuthority().rootPem }));
    expect(report.of("certificate")).toMatchObject([
      { verdict: "problem", text: expect.stringContaining("does not lead to the root") },
    ]);
  });

  test("that cannot be read is named", async () => {
    const report = await examine(await makeHostWith({ certificateChain: "nonsense" }));
    expect(report.of("certificate")).toMatchObject([{ verdict: "problem", text: "the certificate cannot be read" }]);
    expect(report.of("accepted")).toMatchObject([{ verdict: "skipped" }]);
  });

  test("whose renewal is overdue is a warning that says what renews it", async () => {
    const renewAt = around(-HOUR_MS, 0).notBefore.toISOString();
    const stateDir = await makeHostWith({ renewAt });
    expect((await examine(stateDir)).of("certificate")).toMatchObject([
      { verdict: "warning", text: expect.stringContaining("ago"), remedy: expect.stringContaining("Start the agent") },
    ]);
    const lock = await lockStateDir(stateDir);
    expect((await examine(stateDir)).of("certificate")).toMatchObject([
      { verdict: "warning", remedy: expect.stringContaining("renewal loop") },
    ]);
    await lock.release();
  });
});

describe("trust", () => {
  test.each([
    ["an empty bundle", { trustBundle: "" }, "the trust bundle is empty"],
    ["a bundle of nonsense", { trustBundle: brokenPem() }, "the trust bundle cannot be read"],
    ["no task key", { taskKeys: { keys: [] } }, "no key for signed tasks"],
    [
      "a broken task key",
      { taskKeys: { keys: [{ kid: "k", kty: "OKP", crv: "Ed25519", x: "short" }] } },
      "no key for signed tasks",
    ],
  ])("%s is a problem", async (_name, change, text) => {
    const report = await examine(await makeHostWith(change));
    expect(report.of("trust")).toMatchObject([{ verdict: "problem", text: expect.stringContaining(text) }]);
  });

  test("a root that has expired is a problem", async () => {
    const { address } = await startPlane(authority);
    const stateDir = await makeEnrolledHost(authority, address);
    const report = await examine(stateDir, { clock: makeShiftedClock(25 * HOUR_MS) });
    expect(report.of("trust")).toMatchObject([{ verdict: "problem", text: expect.stringContaining("no root") }]);
    const early = await examine(stateDir, { clock: makeShiftedClock(-25 * HOUR_MS) });
    expect(early.of("trust")).toMatchObject([
      { verdict: "problem", remedy: expect.stringMatching(/^Set this host's clock/) },
    ]);
  });
});

function brokenPem(): string {
  return "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
}
