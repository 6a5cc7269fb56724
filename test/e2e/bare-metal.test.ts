import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { cp, mkdir, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { nodeSchema } from "@hostler/shared/api/nodes.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  followOperation,
  readAllocation,
  requestRelease,
  requestSlice,
  runInTerminal,
} from "../../deploy/demo/journey.ts";
import { leftoversOf } from "../../deploy/demo/leftovers.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { CONTAINER_IMAGE_NAME, importContainerImage } from "../support/container-image.ts";
import { findProgram } from "../support/find-program.ts";
import { waitFor } from "../support/wait-for.ts";

/** The journey of a slice that is the host itself, by two real programs; the accounts of that host are not this machine's. */
const canRun = process.getuid?.() === 0 && (await findProgram("sudo")) !== null;
if (!canRun) process.stderr.write("skipped: bare metal needs root and sudo\n");
const LABELS = { "hostler.dev/driver": "host" };
const RELEASE_TIMEOUT_MS = 240_000;
let folder: string;
let holder: ChildProcess;
let cloud: TestCloud;

beforeAll(async () => {
  if (!canRun) return;
  folder = await mkdtemp(join(tmpdir(), "hm-"));
  await cp("/etc", join(folder, "etc"), { recursive: true, verbatimSymlinks: true });
  await mkdir(join(folder, "home"));
  const script = 'mount --bind "$0/etc" /etc && mount --bind "$0/home" /home && echo ready && exec sleep infinity';
  const argv = ["--mount", "--propagation", "private", "sh", "-c", script, folder];
  holder = spawn("unshare", argv, { stdio: ["ignore", "pipe", "inherit"] });
  await once(holder.stdout ?? raiseNoOutput(), "data");
  cloud = await startTestCloud({
    agentArgs: ["--drivers", "host,mock", "--rent-host", "root", "--simulate-gpus", "h100x2"],
    agentPrefix: ["nsenter", `--mount=/proc/${holder.pid}/ns/mnt`, "--"],
  });
  await importContainerImage(cloud.operator);
}, 180_000);
afterAll(async () => {
  await cloud?.close();
  holder?.kill("SIGKILL");
  if (canRun) await rm(folder, { recursive: true, force: true });
});

function raiseNoOutput(): never {
  throw new Error("the name space has no output");
}

async function request(name: string, gpus: number, labels: Readonly<Record<string, string>>): Promise<string> {
  const { operator, projectId } = cloud;
  return (await requestSlice(operator, { projectId, name, image: CONTAINER_IMAGE_NAME, gpus, labels })).id;
}

async function release(allocationId: string): Promise<void> {
  await requestRelease(cloud.operator, allocationId);
  await followOperation(cloud.operator, allocationId, { timeoutMs: RELEASE_TIMEOUT_MS });
  const places = { stateDir: cloud.agentOptions.stateDir, runDir: join(cloud.folder, "run") };
  expect(await leftoversOf(allocationId, 1, places)).toEqual([]);
  expect(await readFile(join(folder, "etc/passwd"), "utf8")).not.toMatch(/^hostler-[0-9a-f]{10}g1:/m);
}

const readNode = async () => await cloud.operator.get(`/api/ops/v1/nodes/${cloud.node.id}`, nodeSchema);

test.runIf(canRun)(
  "a tenant gets the whole host and a shell on it, nobody is placed beside, and the host serves others after it",
  { timeout: 360_000 },
  async () => {
    const { operator } = cloud;
    await expect(request("other-count", 1, LABELS)).rejects.toMatchObject({ code: "capacity_unavailable" });
    const beside = await request("beside", 0, { "hostler.dev/driver": "mock" });
    await followOperation(operator, beside, { timeoutMs: 60_000 });
    await expect(request("whole", 2, LABELS)).rejects.toMatchObject({ code: "capacity_unavailable" });
    await requestRelease(operator, beside);
    await followOperation(operator, beside, { timeoutMs: 60_000 });

    const id = await request("whole", 2, LABELS);
    await followOperation(operator, id, { timeoutMs: 60_000 });
    const { total, free } = { total: await readAllocation(operator, id), free: (await readNode()).free };
    expect(total).toMatchObject({ state: "active", gpus: [{}, {}] });
    expect(free).toEqual({ gpus: 0, vcpus: 0, memoryMib: 0 });
    await expect(request("late", 0, { "hostler.dev/driver": "mock" })).rejects.toMatchObject({
      code: "capacity_unavailable",
    });
    cloud.agent.kill("SIGKILL");
    await cloud.agent.exited;
    cloud.restartAgent();
    const terminal = await runInTerminal(
      operator,
      id,
      "id -un; echo uid=$(sudo -n id -u); (setsid sleep 1000 &); exit 5\n",
    );
    expect(terminal.output).toMatch(/hostler-[0-9a-f]{10}g1/);
    expect(terminal.output).not.toContain("uid=0");
    expect(terminal.exitCode).toBe(5);
    await release(id);
    const { state, slots } = await readNode();
    expect([state, slots.map((slot) => slot.state)]).toEqual(["ready", ["available", "available"]]);
  },
);

test.runIf(canRun)(
  "after a tenant who was root neither the host nor a GPU of it is handed out",
  { timeout: 360_000 },
  async () => {
    const { operator } = cloud;
    const id = await request("rooted", 2, { ...LABELS, "hostler.dev/host-access": "root" });
    await followOperation(operator, id, { timeoutMs: 60_000 });
    const terminal = await runInTerminal(operator, id, "echo uid=$(sudo -n id -u); exit 0\n");
    expect(terminal.output).toContain("uid=0");
    await release(id);
    const node = await waitFor("the quarantine", async () => {
      const read = await readNode();
      return read.state === "quarantined" && read;
    });
    const reason = expect.stringContaining("The tenant had root on this host: reinstall it") as string;
    expect(node.reason).toEqual(reason);
    expect(node.slots.map((slot) => [slot.state, slot.reason])).toEqual([
      ["quarantined", reason],
      ["quarantined", reason],
    ]);
  },
);
