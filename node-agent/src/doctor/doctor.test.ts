import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { makeTestAuthority } from "../identity/test-control-plane.ts";
import { lockStateDir } from "../host/state-lock.ts";
import { doctor } from "./doctor.ts";
import { closedAddress, examine, makeDeps, makeEnrolledHost, startPlane, startTcp } from "./test-host.ts";

const authority = makeTestAuthority();

async function linesOf(stateDir: string): Promise<{ readonly code: number; readonly lines: readonly string[] }> {
  let text = "";
  const code = await doctor([], { stateDir, deps: makeDeps(), write: (part) => void (text += part) });
  return { code, lines: text.trimEnd().split("\n") };
}

test("a host on which nothing is wrong has no problem, ends with 0, and is left as it was", async () => {
  const { address } = await startPlane(authority);
  const stateDir = await makeEnrolledHost(authority, address);
  const lock = await lockStateDir(stateDir);
  const before = await readFile(join(stateDir, "identity.json"), "utf8");
  const report = await examine(stateDir);
  await lock.release();
  expect(report.findings.filter(({ verdict }) => verdict === "problem")).toEqual([]);
  expect(report.code).toBe(0);
  expect(await readdir(stateDir)).toEqual(["identity.json", "session.json", "space-reserve"]);
  expect(await readFile(join(stateDir, "identity.json"), "utf8")).toBe(before);
});

test("each finding is a line with its mark, trouble has its remedy below, and the last line counts", async () => {
  const { code, lines } = await linesOf(await makeEnrolledHost(authority, await closedAddress()));
  expect(code).toBe(1);
  expect(lines).toContainEqual(expect.stringMatching(/^ok {2}enrolled {6}as node_/));
  const refused = lines.findIndex((line) => /^x {3}port {10}node listener .* nothing listens there;/.test(line));
  expect(refused).toBeGreaterThan(0);
  expect(lines[refused + 1]).toMatch(/^ {18}→ Start the control plane/);
  expect(lines.at(-1)).toMatch(/^1 problem, [23] warnings$/);
});

test("a control plane that hangs at every step costs no more than the limit", async () => {
  const stateDir = await makeEnrolledHost(authority, await startTcp(() => undefined));
  const startedMs = performance.now();
  await examine(stateDir, { limits: { stepMs: 5000, totalMs: 1000 } });
  expect(performance.now() - startedMs).toBeLessThan(4000);
});
