import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  followOperation,
  readAllocation,
  readPhases,
  requestRelease,
  requestSlice,
  runInTerminal,
} from "../../deploy/demo/journey.ts";
import { leftoversOf } from "../../deploy/demo/leftovers.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { CONTAINER_IMAGE_NAME, importContainerImage } from "../support/container-image.ts";
import { findProgram } from "../support/find-program.ts";
import { waitFor } from "../support/wait-for.ts";
import { waitForProcess } from "../support/wait-for-process.ts";

/** The journey of a slice that is a container, by two real programs and a real runtime. */
const canRun = process.getuid?.() === 0 && (await findProgram("systemd-nspawn")) !== null;
if (!canRun) process.stderr.write("skipped: containers need root and systemd-nspawn\n");
const LABELS = { "hostler.dev/driver": "container" };
let cloud: TestCloud;

beforeAll(async () => {
  if (!canRun) return;
  cloud = await startTestCloud({ agentArgs: ["--drivers", "container", "--simulate-gpus", "h100x2"] });
  await importContainerImage(cloud.operator);
});
afterAll(async () => await cloud?.close());

async function request(name: string): Promise<string> {
  const { operator, projectId } = cloud;
  const slice = { projectId, name, image: CONTAINER_IMAGE_NAME, gpus: 1, labels: LABELS };
  return (await requestSlice(operator, slice)).id;
}

async function runtimePid(allocationId: string): Promise<number> {
  return await waitForProcess("a container", `HOSTLER_SLICE=${allocationId}.1.`);
}

async function release(allocationId: string): Promise<void> {
  await requestRelease(cloud.operator, allocationId);
  await followOperation(cloud.operator, allocationId, { timeoutMs: 60_000 });
  const places = { stateDir: cloud.agentOptions.stateDir, runDir: join(cloud.folder, "run") };
  expect(await leftoversOf(allocationId, 1, places)).toEqual([]);
}

test.runIf(canRun)(
  "a tenant gets a container with a terminal, an agent's death does not touch it, and giving it back leaves nothing",
  { timeout: 120_000 },
  async () => {
    const { operator } = cloud;
    const id = await request("boxed");
    await followOperation(operator, id, { timeoutMs: 60_000 });
    expect((await readAllocation(operator, id)).state).toBe("active");
    const pid = await runtimePid(id);
    cloud.agent.kill("SIGKILL");
    await cloud.agent.exited;
    cloud.restartAgent();
    const terminal = await runInTerminal(operator, id, "hostname; id; exit 5\n");
    expect(terminal.output).toContain("boxed");
    expect(terminal.output).toContain("uid=0(root)");
    expect(terminal.exitCode).toBe(5);
    expect(await runtimePid(id)).toBe(pid);
    await release(id);
  },
);

test.runIf(canRun)(
  "a container that is killed while its tenant works comes back by itself, with what was on its disk",
  { timeout: 120_000 },
  async () => {
    const { operator } = cloud;
    const id = await request("killed-active");
    await followOperation(operator, id, { timeoutMs: 60_000 });
    expect((await runInTerminal(operator, id, "echo kept > kept.txt; exit 0\n")).exitCode).toBe(0);
    const pid = await runtimePid(id);
    process.kill(pid, "SIGKILL");
    await waitFor("a repair", async () => (await readPhases(operator, id)).operation.kind === "allocation.repair");
    await followOperation(operator, id, { timeoutMs: 60_000 });
    expect((await readAllocation(operator, id)).state).toBe("active");
    expect(await runtimePid(id)).not.toBe(pid);
    const read = await runInTerminal(operator, id, "cat kept.txt; exit 7\n");
    expect(read.output).toContain("kept");
    expect(read.exitCode).toBe(7);
    await release(id);
  },
);
