import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { systemClock } from "@hostler/shared/clock.ts";
import { isRoot, makeTestNetwork } from "../drivers/testing.ts";
import { lockStateDir } from "../host/state-lock.ts";
import { makeDiskFiles } from "../journal/disk-files.ts";
import { VERDICTS, type Row } from "../reconcile/model.ts";
import { writeReport } from "../reconcile/report-file.ts";
import { enter, makeSlice, nameOf } from "../reconcile/test-host.ts";
import { inspect } from "./inspect.ts";
import { jsonOf, textOf } from "./print-inspection.ts";
import type { Inspection } from "./read-inspection.ts";

const MAIN = join(import.meta.dirname, "../main.ts");
const row: Row = { kind: "disk", name: "/d", owner: "alc_1.1", verdict: "unknown", why: "w", remedy: "r" };
const inspection: Inspection = {
  lookedBy: "inspect",
  agentPid: null,
  lookedAt: "2026-01-01T00:00:00Z",
  slices: [],
  rows: [row],
  isWhole: true,
  undone: [],
};
const now = new Date("2026-01-01T00:00:00Z");

async function makeFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "hi-"));
  onTestFinished(async () => await rm(folder, { recursive: true, force: true }));
  return folder;
}

test("what a terminal would obey is shown and not obeyed, and JSON keeps every character", () => {
  const name = "a\u001b[2J\u009b31m\r\nb\u202ec\u2028d\u0000e\ufefff";
  const hostile = { ...inspection, rows: [{ ...row, name, owner: name, why: name, remedy: name }] };
  const text = textOf(hostile, { hasColour: false, now });
  expect(text.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
  expect(text).toContain("a\\u{1b}[2J\\u{9b}31m\\u{d}\\u{a}b\\u{202e}c\\u{2028}d\\u{0}e\\u{feff}f");
  const json = jsonOf(hostile);
  expect(json.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
  expect((JSON.parse(json) as Inspection).rows[0]?.name).toBe(name);
});

test("colours are for terminals, and every verdict has a word", () => {
  const rows = VERDICTS.map((verdict) => ({ ...row, verdict }));
  const plain = textOf({ ...inspection, rows }, { hasColour: false, now });
  expect(plain).not.toContain("\u001b");
  expect(plain).toContain("unknown: left alone");
  const coloured = textOf({ ...inspection, rows }, { hasColour: true, now });
  expect(coloured).toContain("\u001b[31mquarantined");
  expect(coloured.replaceAll("\u001b", "").replaceAll(/\[\d+m/g, "")).toBe(plain);
});

/** The command as an operator runs it, in a network of its own so that the host's own things do not show. */
async function runInspect(folder: string, ...words: string[]) {
  const environment = { HOSTLER_AGENT_STATE_DIR: join(folder, "state"), HOSTLER_AGENT_RUN_DIR: join(folder, "run") };
  const network = isRoot ? await makeTestNetwork() : null;
  const prefix = network === null ? [] : ["ip", "netns", "exec", network.name];
  const [program = "", ...args] = [...prefix, process.execPath, MAIN, "inspect", ...words];
  try {
    return await new Promise<{ code: number; stdout: string; stderr: string }>((resolve) => {
      execFile(program, args, { env: { ...process.env, ...environment } }, (error, stdout, stderr) =>
        resolve({ code: typeof error?.code === "number" ? error.code : 0, stdout, stderr }),
      );
    });
  } finally {
    await network?.remove();
  }
}

test(
  "without an agent it looks itself, changes nothing, and its exit code says what it found",
  { timeout: 240_000 },
  async () => {
    const folder = await makeFolder();
    const files = makeDiskFiles(join(folder, "state"));
    const empty = await runInspect(folder);
    expect(empty).toMatchObject({ code: 0, stderr: "" });
    expect(empty.stdout).toContain("No agent runs: this command has looked at the host itself");
    expect(await readdir(folder)).toEqual([]);

    const slice = makeSlice("qemu");
    await enter({ files }, slice, "finished");
    const disk = join(folder, "state/slices", nameOf(slice), "root.qcow2");
    await mkdir(join(disk, ".."), { recursive: true });
    await writeFile(disk, "x");
    const found = await runInspect(folder, "--json");
    expect(found).toMatchObject({ code: 1, stderr: "" });
    expect(JSON.parse(found.stdout)).toMatchObject({
      lookedBy: "inspect",
      agentPid: null,
      differences: 2,
      rows: [
        { kind: "folder", verdict: "leftover", owner: `${slice.allocationId}.1` },
        { kind: "disk", verdict: "leftover", name: disk },
      ],
    });
    // A second process may look, and only an agent removes.
    expect(await readdir(join(disk, ".."))).toEqual(["root.qcow2"]);

    await rm(join(folder, "state"), { recursive: true });
    await mkdir(join(folder, "state"));
    await writeFile(join(folder, "state/journal"), "not a folder");
    const blind = await runInspect(folder);
    expect(blind).toMatchObject({ code: 2, stdout: "" });
    expect(blind.stderr).toContain("cannot look");
    expect(await runInspect(folder, "--jsn")).toMatchObject({ code: 2 });
  },
);

test("with an agent it shows what that saw, says so, and never believes an earlier agent's", async () => {
  const folder = await makeFolder();
  const places = { stateDir: join(folder, "state"), runDir: join(folder, "run") };
  const files = makeDiskFiles(places.stateDir);
  const lock = await lockStateDir(places.stateDir);
  const said: string[] = [];
  const options = {
    places,
    isTerminal: false,
    write: (text: string) => void said.push(text),
    warn: (text: string) => void said.push(text),
  };
  expect(await inspect([], options)).toBe(2);
  expect(said.join("")).toContain("has not looked at this host yet");
  const lookedAt = systemClock.now().toISOString();
  const report = {
    lookedAt,
    tookMs: 1,
    rows: [{ ...row, verdict: "in_order" as const }],
    isWhole: true,
    undone: [],
    hasNetwork: false,
  };
  await writeReport(files, { ...report, agentPid: process.pid + 1 });
  expect(await inspect([], options)).toBe(2);
  await writeReport(files, { ...report, agentPid: process.pid });
  expect(await inspect([], options)).toBe(0);
  expect(said.at(-1)).toMatch(new RegExp(`^As the agent \\(pid ${process.pid}\\) saw it \\d+ s ago\\.\n`));
  await writeReport(files, { ...report, agentPid: process.pid, rows: [row] });
  expect(await inspect(["--json"], options)).toBe(1);
  await lock.release();
});
