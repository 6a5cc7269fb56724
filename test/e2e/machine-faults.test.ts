import { execFile } from "node:child_process";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  followOperation,
  ownedSlots,
  readAllocation,
  readPhases,
  requestRelease,
  requestSlice,
  runInTerminal,
} from "../../deploy/demo/journey.ts";
import { leftoversOf } from "../../deploy/demo/leftovers.ts";
import type { PhaseList } from "@hostler/shared/api/allocations.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { GUEST_IMAGE_NAME, importGuestImage } from "../support/guest-image.ts";
import { waitFor } from "../support/wait-for.ts";
import { waitForProcess } from "../support/wait-for-process.ts";

/** Faults around a real virtual machine. */
const run = promisify(execFile);
let cloud: TestCloud;

beforeAll(async () => {
  cloud = await startTestCloud({ agentArgs: ["--simulate-gpus", "h100x2"] });
  await importGuestImage(cloud.operator);
});
afterAll(async () => await cloud?.close());

async function request(name: string): Promise<string> {
  return (await requestSlice(cloud.operator, { projectId: cloud.projectId, name, image: GUEST_IMAGE_NAME, gpus: 1 }))
    .id;
}

async function machinePid(allocationId: string): Promise<number> {
  return await waitForProcess("a machine", `guest=${allocationId}.1.`);
}

function isIn(phase: string): (list: PhaseList) => boolean {
  return ({ operation }) => operation.phase === phase;
}

async function expectNothingLeft(allocationId: string): Promise<void> {
  const places = { stateDir: cloud.agentOptions.stateDir, runDir: join(cloud.folder, "run") };
  await waitFor("a clean host", async () => (await leftoversOf(allocationId, 1, places)).length === 0);
  expect(await ownedSlots(cloud.operator, cloud.node.id)).toBe(0);
}

test(
  "an agent killed while its machine boots finds the machine again, and the machine never notices",
  { timeout: 90_000 },
  async () => {
    const id = await request("agent-killed");
    // An agent killed before the machine was handed over starts it anew, which is right but another test.
    await followOperation(cloud.operator, id, { timeoutMs: 60_000, isEnough: isIn("guest_ready") });
    const pid = await machinePid(id);
    cloud.agent.kill("SIGKILL");
    await cloud.agent.exited;
    cloud.restartAgent();
    await followOperation(cloud.operator, id, { timeoutMs: 60_000 });
    expect(await machinePid(id)).toBe(pid);
    const terminal = await runInTerminal(cloud.operator, id, "hostname; exit 9\n");
    expect(terminal.output).toContain("agent-killed");
    expect(terminal.exitCode).toBe(9);
    await requestRelease(cloud.operator, id);
    await followOperation(cloud.operator, id, { timeoutMs: 60_000 });
    await expectNothingLeft(id);
  },
);

test("a machine that dies while it boots is undone with the reason", { timeout: 90_000 }, async () => {
  const id = await request("machine-killed");
  process.kill(await machinePid(id), "SIGKILL");
  // A machine's death may pass: the build is tried again, and dies again, until the attempts are used up or it lives.
  const killer = setInterval(
    () =>
      void machinePid(id)
        .then((pid) => process.kill(pid, "SIGKILL"))
        .catch(() => undefined),
    300,
  );
  await expect(followOperation(cloud.operator, id, { timeoutMs: 80_000 })).rejects.toThrow(/failed/);
  clearInterval(killer);
  const { operation } = await readPhases(cloud.operator, id);
  expect(["machine_exited", "command_failed"]).toContain(operation.error?.code);
  expect((await readAllocation(cloud.operator, id)).state).toBe("failed");
  await expectNothingLeft(id);
});

test(
  "a machine that is killed while its tenant works comes back by itself, with what was on its disk",
  { timeout: 120_000 },
  async () => {
    const id = await request("killed-active");
    await followOperation(cloud.operator, id, { timeoutMs: 60_000 });
    const written = await runInTerminal(cloud.operator, id, "echo kept > kept.txt; sync; exit 0\n");
    expect(written.exitCode).toBe(0);
    const pid = await machinePid(id);
    process.kill(pid, "SIGKILL");
    await waitFor(
      "a repair",
      async () => (await readPhases(cloud.operator, id)).operation.kind === "allocation.repair",
    );
    await followOperation(cloud.operator, id, { timeoutMs: 60_000 });
    expect((await readAllocation(cloud.operator, id)).state).toBe("active");
    expect(await machinePid(id)).not.toBe(pid);
    const read = await runInTerminal(cloud.operator, id, "cat kept.txt; exit 7\n");
    expect(read.output).toContain("kept");
    expect(read.exitCode).toBe(7);
    await requestRelease(cloud.operator, id);
    await followOperation(cloud.operator, id, { timeoutMs: 60_000 });
    await expectNothingLeft(id);
  },
);

test("an image that was altered on the control plane's disk never becomes a machine", { timeout: 90_000 }, async () => {
  const { stdout } = await run("find", [join(cloud.folder, "control-plane/images"), "-type", "f"]);
  const [path = ""] = stdout.trim().split("\n");
  const original = await readFile(path);
  // One bit, in the middle of the file; the agent's own verified copy is taken away so that it fetches again.
  const altered = Buffer.from(original);
  altered[altered.length >> 1] = (altered[altered.length >> 1] ?? 0) ^ 1;
  await writeFile(path, altered);
  await rm(join(cloud.agentOptions.stateDir, "images"), { recursive: true, force: true });
  const id = await request("altered-image");
  await expect(followOperation(cloud.operator, id, { timeoutMs: 60_000 })).rejects.toThrow(/failed/);
  const { operation } = await readPhases(cloud.operator, id);
  expect(operation.error).toMatchObject({ code: "image_checksum_mismatch", phase: "image" });
  await expectNothingLeft(id);
  await writeFile(path, original);
});
