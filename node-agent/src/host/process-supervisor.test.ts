import { spawn } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "@hostler/shared/clock.ts";
import { expect, onTestFinished, test } from "vitest";
import { waitFor } from "../../../test/support/wait-for.ts";
import type { ProcessSupervisor } from "../ports/process-supervisor.ts";
import { makeDetachedSupervisor } from "./detached-supervisor.ts";
import { readBootId } from "./facts.ts";
import { makeFindProgram } from "./find-program.ts";
import { memoryLockOf } from "./memory-lock.ts";
import { startTimeOf } from "./process-start-time.ts";
import { parseUnitNames, parseUnitState, systemdRunArgv } from "./systemd-supervisor.ts";

const signal = new AbortController().signal;
const stopOptions = { graceMs: 5000, signal };

async function setUp() {
  const stateDir = await mkdtemp(join(tmpdir(), "hq-"));
  const supervisor = makeDetachedSupervisor({ clock: systemClock, stateDir });
  onTestFinished(async () => {
    for (const name of await supervisor.names()) await supervisor.stop(name, { graceMs: 0, signal });
    await rm(stateDir, { recursive: true, force: true });
  });
  const logPath = join(stateDir, "out.log");
  const record = (name: string): string => join(stateDir, "processes", `${name}.json`);
  return { stateDir, supervisor, logPath, record };
}

async function pidOf(supervisor: ProcessSupervisor, name: string): Promise<number> {
  const found = await supervisor.inspect(name);
  if (found.state !== "running") throw new Error(`${name} is ${found.state}`);
  return found.pid;
}

test("a program runs under its name, writes its log, and is found by another agent", async () => {
  const { stateDir, supervisor, logPath } = await setUp();
  expect(await supervisor.inspect("one")).toEqual({ state: "absent" });
  await supervisor.start("one", ["sh", "-c", "echo hello; echo there >&2; sleep 1000"], { logPath, signal });
  const restarted = makeDetachedSupervisor({ clock: systemClock, stateDir });
  const pid = await pidOf(restarted, "one");
  await waitFor("the log has both lines", async () => (await readFile(logPath, "utf8")) === "hello\nthere\n");
  await expect(restarted.start("one", ["true"], { logPath, signal })).rejects.toMatchObject({ code: "conflict" });
  expect(await restarted.names("o")).toEqual(["one"]);
  expect(await restarted.names("x")).toEqual([]);
  await restarted.stop("one", stopOptions);
  expect(await startTimeOf(pid)).toBe(null);
  expect(await restarted.inspect("one")).toEqual({ state: "absent" });
  await restarted.stop("one", stopOptions);
});

test("it leads a session of its own and knows nothing of the agent's environment", async () => {
  const { supervisor, logPath } = await setUp();
  await supervisor.start("one", ["sh", "-c", "env; sleep 1000"], { logPath, signal });
  const pid = await pidOf(supervisor, "one");
  const fields = (await readFile(`/proc/${pid}/stat`, "utf8")).split(" ");
  expect([fields[4], fields[5]]).toEqual([String(pid), String(pid)]);
  const text = await waitFor("the log is there", async () => (await readFile(logPath, "utf8")) || undefined);
  expect(text).not.toContain("VITEST");
});

test("a program that has ended is exited until it is stopped, and its name is free again", async () => {
  const { supervisor, logPath } = await setUp();
  await supervisor.start("one", ["true"], { logPath, signal });
  await waitFor("it has ended", async () => (await supervisor.inspect("one")).state === "exited");
  await supervisor.start("one", ["sleep", "1000"], { logPath, signal });
  await pidOf(supervisor, "one");
});

test("a program that ignores SIGTERM is killed after the grace, with what it started", async () => {
  const { supervisor, logPath } = await setUp();
  const script = "trap '' TERM; sleep 1000 & echo $!; while :; do sleep 0.1; done";
  await supervisor.start("one", ["sh", "-c", script], { logPath, signal });
  const child = Number(await waitFor("it is up", async () => (await readFile(logPath, "utf8")) || undefined));
  await supervisor.stop("one", { graceMs: 300, signal });
  await waitFor("its child is gone", async () => (await startTimeOf(child)) === null);
});

test("a pid that was given to another process, or is of another boot, is never killed", async () => {
  const { stateDir, supervisor, record } = await setUp();
  const stranger = spawn("sleep", ["1000"], { stdio: "ignore" });
  onTestFinished(() => void stranger.kill("SIGKILL"));
  const pid = stranger.pid ?? 0;
  const startTime = (await startTimeOf(pid)) ?? "";
  const bootId = await readBootId();
  await mkdir(join(stateDir, "processes"));
  const records = [
    { pid, startTime: String(Number(startTime) - 1), bootId },
    { pid, startTime, bootId: "00000000-0000-0000-0000-000000000000" },
  ];
  for (const written of records) {
    await writeFile(record("one"), JSON.stringify(written));
    expect(await supervisor.inspect("one")).toEqual({ state: "exited" });
    await supervisor.stop("one", { graceMs: 0, signal });
    expect(await startTimeOf(pid)).toBe(startTime);
  }
});

test("a process whose record was never written, or was torn, is found by its mark", async () => {
  const { supervisor, logPath, record } = await setUp();
  await supervisor.start("one", ["sleep", "1000"], { logPath, signal });
  const pid = await pidOf(supervisor, "one");
  await writeFile(record("one"), "");
  expect(await supervisor.inspect("one")).toEqual({ state: "running", pid });
  // As after a death between the start and the record.
  await rm(record("one"));
  await writeFile(record("one").replace(".json", ".starting"), "");
  expect(await supervisor.inspect("one")).toEqual({ state: "running", pid });
  expect(await supervisor.names()).toEqual(["one"]);
  await supervisor.stop("one", stopOptions);
  expect(await startTimeOf(pid)).toBe(null);
});

test("a start that died before its program is nothing, and the name is free", async () => {
  const { supervisor, stateDir, logPath } = await setUp();
  await mkdir(join(stateDir, "processes"));
  await writeFile(join(stateDir, "processes/one.starting"), "");
  expect(await supervisor.inspect("one")).toEqual({ state: "absent" });
  expect(await supervisor.names()).toEqual([]);
  await supervisor.start("one", ["sleep", "1000"], { logPath, signal });
  await pidOf(supervisor, "one");
});

test("a program that is not installed starts nothing and names its package", async () => {
  const { stateDir, logPath } = await setUp();
  const bare = makeDetachedSupervisor({ clock: systemClock, stateDir, find: makeFindProgram([]) });
  await expect(bare.start("one", ["qemu-system-x86_64"], { logPath, signal })).rejects.toMatchObject({
    code: "driver_unavailable",
    detail: expect.stringContaining("qemu-system-x86"),
  });
  expect(await bare.inspect("one")).toEqual({ state: "absent" });
});

test("under systemd a slice is a unit of its own, in its own slice, with its log in our file", () => {
  const argv = systemdRunArgv("abc", ["qemu-system-x86_64", "-S"], { logPath: "/var/lib/x/qemu.log" });
  expect(argv.slice(0, 4)).toEqual([
    "systemd-run",
    "--unit=hostler-slice-abc.service",
    "--slice=hostler.slice",
    "--collect",
  ]);
  expect(argv).toEqual(
    expect.arrayContaining(["-p", "KillMode=mixed", "-p", "StandardOutput=append:/var/lib/x/qemu.log"]),
  );
  expect(argv.slice(-3)).toEqual(["--", "qemu-system-x86_64", "-S"]);
  expect(argv.join(" ")).not.toContain("MemoryMax");
  const limited = systemdRunArgv("abc", ["env"], { logPath: "/x.log", limits: { memoryMib: 512, vcpus: 2 } });
  expect(limited).toEqual(expect.arrayContaining(["Delegate=yes", "MemoryMax=512M", "CPUQuota=200%"]));
  const placement = { cpus: [2, 3, 10], mayLockMemory: true };
  const placed = systemdRunArgv("abc", ["env"], { logPath: "/x.log", placement });
  expect(placed).toEqual(expect.arrayContaining(["AllowedCPUs=2-3,10", "CPUAffinity=2-3,10", "LimitMEMLOCK=infinity"]));
});

test("a program that is placed runs on its CPUs, under the pid that is known", async () => {
  const { supervisor, logPath } = await setUp();
  const placement = { cpus: [0], mayLockMemory: true };
  await supervisor.start("one", ["sleep", "1000"], { logPath, placement, signal });
  const status = async (): Promise<string> => await readFile(`/proc/${await pidOf(supervisor, "one")}/status`, "utf8");
  await waitFor("the program itself", async () => /^Name:\s+sleep$/m.test(await status()));
  expect(await status()).toMatch(/^Cpus_allowed_list:\s+0$/m);
});

test("memory is locked by a raised limit where that is allowed, without one where none applies, and else not at all", () => {
  const status = (capabilities: string): string => `Name:\tnode\nCapEff:\t${capabilities}\nCapBnd:\t000001ffffffffff\n`;
  const limits = (hard: string): string =>
    `Max locked memory         8388608              ${hard}              bytes\n`;
  expect(memoryLockOf(status("0000000000000000"), limits("unlimited"))).toBe("raise_limit");
  expect(memoryLockOf(status("000001ffffffffff"), limits("8388608"))).toBe("raise_limit");
  expect(memoryLockOf(status("0000000000004000"), limits("8388608"))).toBe("needs_no_limit");
  expect(memoryLockOf(status("00000000a80425fb"), limits("8388608"))).toBe("forbidden");
});

test("what systemctl says is read: running, on its way down, failed, unknown", () => {
  const show = (load: string, active: string): string => `LoadState=${load}\nActiveState=${active}\nMainPID=42\n`;
  expect(parseUnitState(show("loaded", "active"))).toEqual({ state: "running", pid: 42 });
  expect(parseUnitState(show("loaded", "deactivating"))).toEqual({ state: "running", pid: 42 });
  expect(parseUnitState(show("loaded", "failed"))).toEqual({ state: "exited" });
  expect(parseUnitState(show("not-found", "inactive"))).toEqual({ state: "absent" });
  const list = "  hostler-slice-abc.service loaded active running x\nhostler-agent.service loaded active running y\n";
  expect(parseUnitNames(list)).toEqual(["abc"]);
});

test("a program that was removed since it was found is not installed, and leaves no name behind", async () => {
  const { stateDir, logPath } = await setUp();
  const program = join(stateDir, "gone");
  await writeFile(program, "#!/nowhere/interpreter\n", { mode: 0o755 });
  const supervisor = makeDetachedSupervisor({ clock: systemClock, stateDir, find: makeFindProgram([stateDir]) });
  await expect(supervisor.start("one", ["gone"], { logPath, signal })).rejects.toMatchObject({
    code: "driver_unavailable",
    detail: expect.stringContaining("The program gone is not installed"),
  });
  expect(await supervisor.names()).toEqual([]);
});
