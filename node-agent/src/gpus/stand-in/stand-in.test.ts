import { readFile, writeFile } from "node:fs/promises";
import { afterEach, expect, test } from "vitest";
import { clearFaults, forgetBoot, setFault, type StandInPlan } from "./install-stand-in.ts";
import { parseState } from "./parse-state.ts";
import { readState } from "./state.ts";
import { openTestStandIn, type TestStandIn } from "./test-stand-in.ts";

const open: TestStandIn[] = [];

async function standIn(...cards: readonly StandInPlan["gpus"][number]["card"][]): Promise<TestStandIn> {
  const made = await openTestStandIn({ gpus: cards.map((card) => ({ card })) });
  open.push(made);
  return made;
}

async function cutHopper(): Promise<TestStandIn> {
  const host = await standIn("h100");
  await host.lines("-mig", "1");
  return host;
}

afterEach(async () => {
  for (const made of open.splice(0)) await made.close();
});

async function migModes(host: TestStandIn): Promise<string[]> {
  return await host.lines("--query-gpu=mig.mode.current,mig.mode.pending", "--format=csv,noheader");
}

test("an Ampere card changes its mode at a reset and keeps it over a boot", async () => {
  const host = await standIn("a100-40gb");
  await host.lines("-mig", "1");
  expect(await migModes(host)).toEqual(["Disabled, Enabled"]);
  expect((await host.run("mig", "-lgi")).stdout).toBe("No MIG-enabled devices found.\n");
  await host.lines("-i", "0", "-r", "bus");
  await host.lines("mig", "-cgi", "9", "-C");
  await forgetBoot(host.statePath);
  expect(await migModes(host)).toEqual(["Enabled, Enabled"]);
  expect((await host.run("mig", "-lgi")).stdout).toBe("No GPU instances found: Not Found\n");
});

test("a Hopper card changes its mode at once and forgets it, with its persistence, when the host boots", async () => {
  const host = await cutHopper();
  expect(await migModes(host)).toEqual(["Enabled, Enabled"]);
  await forgetBoot(host.statePath);
  expect(await migModes(host)).toEqual(["Disabled, Disabled"]);
  expect(await host.lines("--query-gpu=persistence_mode", "--format=csv,noheader")).toEqual(["Disabled"]);
});

test("a card without MIG says so and goes on", async () => {
  const host = await standIn("l40s");
  expect(await host.lines("-mig", "1")).toContain("Treating as warning and moving on.");
  expect(await migModes(host)).toEqual(["[N/A], [N/A]"]);
  expect(await host.run("mig", "-lgip")).toMatchObject({ stdout: "No MIG-supported devices found.\n", exitCode: 6 });
});

test("an instance is refused where there is no room, and what was made before it stays", async () => {
  const host = await cutHopper();
  const { stdout, exitCode } = await host.run("mig", "-cgi", "3g.40gb,9:0,19", "-C");
  expect(exitCode).not.toBe(0);
  expect(stdout.split("\n").slice(-3)).toEqual([
    "Unable to create a GPU instance on GPU  0 using profile 19: Insufficient Resources",
    "Failed to create GPU instances: Insufficient Resources",
    "",
  ]);
  expect((await readState(host.statePath)).gpus[0]?.instances.map(({ start }) => start)).toEqual([4, 0]);
});

test("a place that a profile does not have is refused, and an occupied one too", async () => {
  const host = await cutHopper();
  expect((await host.run("mig", "-cgi", "9:2")).stdout).toContain("Invalid Argument");
  await host.lines("mig", "-cgi", "9:0");
  expect((await host.run("mig", "-cgi", "19:3")).stdout).toContain("Insufficient Resources");
});

test("only one instance has the media extensions, although there is room for more", async () => {
  const host = await cutHopper();
  await host.lines("mig", "-cgi", "1g.10gb+me");
  expect((await host.run("mig", "-cgi", "20")).stdout).toContain("Insufficient Resources");
  await host.lines("mig", "-cgi", "19,19,19,19,19,19");
});

test("a GPU instance with a compute instance is in use", async () => {
  const host = await cutHopper();
  await host.lines("mig", "-cgi", "9:4", "-C");
  expect(await host.run("mig", "-dgi", "-gi", "2")).toMatchObject({
    stdout:
      "Unable to destroy GPU instance ID  2 from GPU  0: In use by another client\nFailed to destroy GPU instances: In use by another client\n",
    exitCode: 19,
  });
  await host.lines("mig", "-dci", "-gi", "2", "-ci", "0");
  await host.lines("mig", "-dgi", "-gi", "2");
  expect(await host.run("mig", "-dgi")).toMatchObject({ stdout: "No GPU instances found: Not Found\n", exitCode: 6 });
});

test("the mode stays while there are instances or a process", async () => {
  const host = await cutHopper();
  await host.lines("mig", "-cgi", "19");
  expect((await host.run("-mig", "0")).stdout).toContain("In use by another client");
  await host.lines("mig", "-dgi");
  await setFault(host.statePath, { kind: "process", pid: 77, name: "python3", memoryMib: 100 });
  expect((await host.run("-mig", "0")).exitCode).toBe(19);
  await clearFaults(host.statePath);
  await host.lines("-mig", "0");
  expect(await migModes(host)).toEqual(["Disabled, Disabled"]);
});

test("a process is named, keeps its GPU from a reset and its instances from being destroyed", async () => {
  const host = await standIn("h100", "h100");
  const [, second] = (await readState(host.statePath)).gpus;
  await host.lines("-mig", "1");
  await host.lines("mig", "-cgi", "19", "-C");
  await setFault(host.statePath, {
    kind: "process",
    gpu: second?.uuid ?? "",
    pid: 4242,
    name: "/usr/bin/vllm",
    memoryMib: 900,
  });
  const apps = await host.lines(
    "--query-compute-apps=gpu_uuid,pid,process_name,used_memory",
    "--format=csv,noheader,nounits",
  );
  expect(apps).toEqual([`${second?.uuid}, 4242, /usr/bin/vllm, 900`]);
  expect((await host.run("-i", "1", "-r")).stdout).toContain("1 device is currently being used");
  expect((await host.run("mig", "-i", "1", "-dci")).stdout).toContain("In use by another client");
  await host.lines("-i", "0", "-r");
  expect((await readState(host.statePath)).gpus.map(({ instances }) => instances.length)).toEqual([0, 1]);
});

test("a process in one instance leaves the others of its GPU to be destroyed", async () => {
  const host = await cutHopper();
  await host.lines("mig", "-cgi", "9:0,9:4", "-C");
  await setFault(host.statePath, { kind: "process", pid: 6, name: "tenant", memoryMib: 10, gpuInstance: 1 });
  await host.lines("mig", "-dci", "-gi", "2");
  await host.lines("mig", "-dgi", "-gi", "2");
  expect((await host.run("mig", "-dci", "-gi", "1")).exitCode).toBe(19);
  await clearFaults(host.statePath, "process");
  await host.lines("mig", "-dci", "-gi", "1");
});

test("a GPU that another driver has is not shown, and those behind it move up, until the host boots", async () => {
  const host = await standIn("h100", "h200", "l40s");
  const second = (await readState(host.statePath)).gpus[1]?.uuid ?? "";
  await setFault(host.statePath, { kind: "absent", gpu: second });
  const asked = ["--query-gpu=index,count,name", "--format=csv,noheader"];
  expect(await host.lines(...asked)).toEqual(["0, 2, NVIDIA H100 80GB HBM3", "1, 2, NVIDIA L40S"]);
  expect((await host.run("-i", second, "-pm", "0")).exitCode).toBe(6);
  await forgetBoot(host.statePath);
  expect(await host.lines(...asked)).toHaveLength(3);
});

test("a GPU is meant by its index, its UUID or its bus id, and one that is not there is not found", async () => {
  const host = await standIn("h100", "h200");
  const [, second] = (await readState(host.statePath)).gpus;
  for (const name of ["1", second?.uuid ?? "", second?.busId ?? "", "0000:02:00.0"])
    expect(await host.lines("-i", name, "--query-gpu=name", "--format=csv,noheader")).toEqual(["NVIDIA H200"]);
  expect(await host.run("-i", "2", "-L")).toMatchObject({ stdout: "No devices were found\n", exitCode: 6 });
});

test("persistence belongs to one GPU", async () => {
  const host = await standIn("h100", "h100");
  await host.lines("-i", "1", "-pm", "0");
  expect(await host.lines("--query-gpu=persistence_mode", "--format=csv,noheader")).toEqual(["Enabled", "Disabled"]);
});

test("shares of a GPU instance are handed out until its slices are", async () => {
  const host = await cutHopper();
  await host.lines("mig", "-cgi", "9:0");
  await host.lines("mig", "-cci", "2c.3g.40gb,0", "-gi", "1");
  expect((await host.run("mig", "-cci", "0", "-gi", "1")).stdout).toContain("Insufficient Resources");
  expect((await host.lines("-L")).slice(1).map((line) => line.split(" (")[0])).toEqual([
    "  MIG 2c.3g.40gb  Device  0:",
    "  MIG 1c.3g.40gb  Device  1:",
  ]);
});

test("what nobody understands is refused", async () => {
  const host = await standIn("h100");
  for (const argv of [
    ["--frobnicate"],
    ["-x"],
    ["-mig", "2"],
    ["mig", "-cgi"],
    ["mig", "-dgi", "-gi", "x"],
    ["-i"],
    [],
  ])
    expect((await host.run(...argv)).exitCode, argv.join(" ")).toBe(2);
  expect((await host.run("--query-gpu=name,weight", "--format=csv")).stdout).toContain('"weight" is not a valid field');
});

test("a hang ends at its time, or when the caller kills it, and leaves the state to others", async () => {
  const host = await standIn("h100");
  await setFault(host.statePath, { kind: "hang", on: ["list"], calls: 2 });
  const stuck = host.commands.run(["nvidia-smi", "-L"], { timeoutMs: 400, signal: new AbortController().signal });
  await expect(stuck).rejects.toMatchObject({ code: "command_timeout" });
  await host.lines("-i", "0", "-pm", "0");
  await setFault(host.statePath, { kind: "hang", ms: 300, on: ["persistence"], when: "after", calls: 1 });
  expect((await host.run("-i", "0", "-pm", "1")).durationMs).toBeGreaterThan(290);
});

test("a call that ignores the polite signal lives until the other one", async () => {
  const host = await standIn("h100");
  await setFault(host.statePath, { kind: "hang", ignoresSigterm: true });
  const beganMs = performance.now();
  const stuck = host.commands.run(["nvidia-smi", "-L"], { timeoutMs: 3000, signal: new AbortController().signal });
  await expect(stuck).rejects.toMatchObject({ code: "command_timeout" });
  // Asked to end after three seconds, killed two seconds later.
  expect(performance.now() - beganMs).toBeGreaterThan(4900);
});

test("a lie answers success and makes nothing", async () => {
  const host = await cutHopper();
  await setFault(host.statePath, { kind: "lie", on: ["cgi"], calls: 1 });
  expect((await host.lines("mig", "-cgi", "19", "-C"))[0]).toContain("Successfully created GPU instance");
  expect((await host.run("mig", "-lgi")).exitCode).toBe(6);
  await host.lines("mig", "-cgi", "19", "-C");
  expect((await host.run("mig", "-lgi")).exitCode).toBe(0);
});

test("an answer that denies what was done, a planted failure and half an answer each come as often as was asked", async () => {
  const host = await cutHopper();
  await setFault(host.statePath, {
    kind: "fail",
    on: ["cgi"],
    when: "after",
    message: "Unknown Error",
    exitCode: 255,
    calls: 1,
  });
  expect(await host.run("mig", "-cgi", "19")).toMatchObject({ stdout: "Unknown Error\n", exitCode: 255 });
  expect((await readState(host.statePath)).gpus[0]?.instances).toHaveLength(1);
  await setFault(host.statePath, { kind: "fail", on: ["dgi"], message: "", exitCode: 4, calls: 2 });
  const exits = [await host.run("mig", "-dgi"), await host.run("mig", "-dgi"), await host.run("mig", "-dgi")];
  expect(exits.map(({ exitCode }) => exitCode)).toEqual([4, 4, 0]);
  const whole = (await host.run("-L")).stdout;
  await setFault(host.statePath, { kind: "half", calls: 1 });
  expect((await host.run("-L")).stdout).toBe(whole.slice(0, whole.length / 2));
  expect((await host.run("-L")).stdout).toBe(whole);
  expect((await readState(host.statePath)).faults).toEqual([]);
});

test("a fault of one GPU is met by calls about that GPU", async () => {
  const host = await standIn("h100", "h100");
  const [first] = (await readState(host.statePath)).gpus;
  await setFault(host.statePath, { kind: "fail", gpu: first?.uuid ?? "", message: "x", exitCode: 1 });
  expect((await host.run("-i", "1", "-L")).exitCode).toBe(0);
  expect((await host.run("-i", "0", "-L")).exitCode).toBe(1);
  expect((await host.run("--version")).exitCode).toBe(0);
});

test("a state that was edited wrongly is refused with the place of the mistake", async () => {
  const host = await standIn("h100");
  const text = await readFile(host.statePath, "utf8");
  expect(() => parseState(text.replace('"h100"', '"h1000"'), "s.json")).toThrow(/s\.json has at \.gpus\[0\]\.card/);
  expect(() => parseState(text.slice(0, 99), "s.json")).toThrow(/not JSON/);
  const fault = JSON.stringify({ kind: "fail", message: "no", exitCode: 7, on: ["lst"] });
  await writeFile(host.statePath, text.replace('"faults": []', `"faults": [${fault}]`));
  const { exitCode, stderr } = await host.run("-L");
  expect(exitCode).toBe(1);
  expect(stderr).toContain(".faults[0].on[0]");
});

test("a fault that was written by hand has the defaults of one that was set", async () => {
  const host = await standIn("h100");
  const text = await readFile(host.statePath, "utf8");
  await writeFile(
    host.statePath,
    text.replace('"faults": []', '"faults": [{"kind":"fail","message":"no","exitCode":7}]'),
  );
  expect(await host.run("-L")).toMatchObject({ exitCode: 7, stdout: "no\n" });
});

test("the XML names GPUs, instances and processes", async () => {
  const host = await cutHopper();
  await host.lines("mig", "-cgi", "9:4", "-C");
  await setFault(host.statePath, { kind: "process", pid: 8, name: "a<b", memoryMib: 5 });
  const text = (await host.lines("-q", "-x")).join("\n");
  for (const piece of [
    "<gpu_instance_id>2</gpu_instance_id>",
    "<current_mig>Enabled<",
    "<process_name>a&lt;b<",
    "<used>5 MiB<",
  ])
    expect(text).toContain(piece);
  const names = [...text.matchAll(/<(\/?)(\w+)(?: [^>]*)?>/g)].map(([, slash, name]) => `${slash}${name}`);
  const unclosed: string[] = [];
  for (const name of names)
    if (`/${unclosed.at(-1)}` === name) unclosed.pop();
    else unclosed.push(name);
  expect(unclosed).toEqual([]);
});
