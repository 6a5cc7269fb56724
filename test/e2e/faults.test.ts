import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { imageSchema } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  followOperation,
  ownedSlots,
  readAllocation,
  readPhases,
  requestRelease,
  requestSlice,
} from "../../deploy/demo/journey.ts";
import { startProgram } from "../../deploy/demo/program.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { childrenOf } from "../support/child-processes.ts";
import { waitFor } from "../support/wait-for.ts";

/** Faults on real processes. The slices are mock ones, so that a phase can be held open and the suite stays quick. */
const MOCK = { "hostler.dev/driver": "mock" };
let cloud: TestCloud;
let serial = 0;

beforeAll(async () => {
  cloud = await startTestCloud({ agentArgs: ["--simulate-gpus", "h100x4", "--drivers", "mock"] });
  await cloud.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
});
afterAll(async () => await cloud?.close());

async function request(labels: Readonly<Record<string, string>>, gpus = 1): Promise<Allocation> {
  serial += 1;
  const { operator, projectId } = cloud;
  return await requestSlice(operator, {
    projectId,
    name: `slice-${serial}`,
    image: "tiny",
    gpus,
    labels: { ...MOCK, ...labels },
  });
}

async function waitForPhase(allocationId: string, phase: string): Promise<void> {
  await waitFor(`phase ${phase} of ${allocationId}`, async () => {
    const { phases } = await readPhases(cloud.operator, allocationId);
    return phases.some((view) => view.name === phase && view.status === "started");
  });
}

async function release(allocationId: string): Promise<void> {
  await requestRelease(cloud.operator, allocationId);
  await followOperation(cloud.operator, allocationId, { timeoutMs: 30_000 });
}

/** What the mock driver and the simulated GPUs keep of slices on the host. */
async function leftOnHost(): Promise<string[]> {
  const { stateDir } = cloud.agentOptions;
  const slices = await readdir(join(stateDir, "mock")).catch(() => []);
  const journals = await readdir(join(stateDir, "journal")).catch(() => []);
  const gpus = JSON.parse(await readFile(join(stateDir, "simulated-gpus.json"), "utf8").catch(() => "{}")) as {
    owners?: object;
  };
  const ledger = JSON.parse(await readFile(join(stateDir, "ledger.json"), "utf8").catch(() => "{}")) as object;
  return [...slices, ...journals, ...Object.keys(gpus.owners ?? {}), ...Object.keys(ledger)];
}

async function expectClean(): Promise<void> {
  await waitFor("a clean host", async () => (await leftOnHost()).length === 0);
  expect(await ownedSlots(cloud.operator, cloud.node.id)).toBe(0);
}

describe("a killed agent", () => {
  test.each(["preflight", "image", "disk", "seed", "network", "start", "guest_ready"])(
    "resumes a build that was in phase %s and makes the slice active",
    { timeout: 60_000 },
    async (phase) => {
      const slice = await request({ [`mock.hostler.dev/${phase}`]: "slow:1500" });
      await waitForPhase(slice.id, phase);
      cloud.agent.kill("SIGKILL");
      await cloud.agent.exited;
      cloud.restartAgent();
      await followOperation(cloud.operator, slice.id, { timeoutMs: 40_000 });
      expect((await readAllocation(cloud.operator, slice.id)).state).toBe("active");
      await release(slice.id);
      await expectClean();
    },
  );
});

test(
  "a killed control plane loses nothing: the build goes on and the slice becomes active",
  { timeout: 60_000 },
  async () => {
    const slice = await request({ "mock.hostler.dev/network": "slow:3000" });
    await waitForPhase(slice.id, "network");
    cloud.controlPlane.program.kill("SIGKILL");
    await cloud.controlPlane.program.exited;
    await cloud.restartControlPlane();
    await followOperation(cloud.operator, slice.id, { timeoutMs: 40_000 });
    await release(slice.id);
    await expectClean();
  },
);

test("a PostgreSQL that stands still for 10 s loses nothing", { timeout: 90_000 }, async () => {
  const slice = await request({ "mock.hostler.dev/seed": "slow:2000" });
  await waitForPhase(slice.id, "seed");
  const pidFile = join(cloud.folder, "control-plane/postgres/data/postmaster.pid");
  const postmaster = Number((await readFile(pidFile, "utf8")).split("\n")[0]);
  const processes = [postmaster, ...childrenOf(postmaster)];
  for (const pid of processes) process.kill(pid, "SIGSTOP");
  await systemClock.sleep(10_000, new AbortController().signal);
  for (const pid of processes) process.kill(pid, "SIGCONT");
  await followOperation(cloud.operator, slice.id, { timeoutMs: 60_000 });
  await release(slice.id);
  await expectClean();
});

test("a PostgreSQL that is killed is started again and nothing is lost", { timeout: 90_000 }, async () => {
  const slice = await request({ "mock.hostler.dev/seed": "slow:2000" });
  await waitForPhase(slice.id, "seed");
  const pidFile = join(cloud.folder, "control-plane/postgres/data/postmaster.pid");
  process.kill(Number((await readFile(pidFile, "utf8")).split("\n")[0]), "SIGKILL");
  await waitFor(
    "the slice",
    async () => (await readAllocation(cloud.operator, slice.id).catch(() => null))?.state === "active",
    { timeoutMs: 60_000 },
  );
  await release(slice.id);
  await expectClean();
});

describe("a failing phase", () => {
  test.each([
    ["disk", "disk-full", "disk_full"],
    ["image", "checksum", "image_checksum_mismatch"],
    ["start", "fail", "command_failed"],
    ["guest_ready", "not-ready", "guest_not_ready"],
  ])(
    "%s: the slice fails with the reason and everything is undone",
    { timeout: 60_000 },
    async (phase, label, code) => {
      const slice = await request({ [`mock.hostler.dev/${phase}`]: label });
      await expect(followOperation(cloud.operator, slice.id, { timeoutMs: 40_000 })).rejects.toThrow(/failed/);
      const { operation, phases } = await readPhases(cloud.operator, slice.id);
      expect(operation.error).toMatchObject({ code, phase });
      expect(operation.error?.remedy).not.toBe("");
      expect(phases.some((view) => view.direction === "undo" && view.status === "done")).toBe(true);
      expect((await readAllocation(cloud.operator, slice.id)).state).toBe("failed");
      await expectClean();
    },
  );

  test("a failure that passes is retried in the same phase", { timeout: 60_000 }, async () => {
    const slice = await request({ "mock.hostler.dev/disk": "fail-once" });
    await followOperation(cloud.operator, slice.id, { timeoutMs: 40_000 });
    await release(slice.id);
    await expectClean();
  });
});

test("a slice released while it is built is undone", { timeout: 60_000 }, async () => {
  const slice = await request({ "mock.hostler.dev/start": "hang" });
  await waitForPhase(slice.id, "start");
  await requestRelease(cloud.operator, slice.id);
  await waitFor("released", async () => (await readAllocation(cloud.operator, slice.id)).state === "released");
  await expectClean();
});

test("with no free GPU the answer says how many are free and where", async () => {
  const error = await request({}, 5).catch((failure: unknown) => failure);
  expect(error).toBeInstanceOf(AppError);
  if (!(error instanceof AppError)) return;
  expect(error.code).toBe("capacity_unavailable");
  expect(error.message).toContain(`${cloud.node.name}: 4 GPUs free`);
  expect(error.facts["nodes"]).toMatchObject([{ id: cloud.node.id, freeGpus: 4 }]);
});

test("a port in use ends the start with the port, the variable and the remedy", { timeout: 60_000 }, async () => {
  const logPath = join(cloud.folder, "second.log");
  const program = startProgram({
    name: "second control plane",
    args: [join(import.meta.dirname, "../../control-plane/src/main.ts")],
    env: { HOSTLER_STATE_DIR: join(cloud.folder, "second"), HOSTLER_PUBLIC_LISTEN: new URL(cloud.url).host },
    logPath,
  });
  expect(await program.exited).toBe(1);
  const log = await program.logTail();
  expect(log).toContain(new URL(cloud.url).port);
  expect(log).toContain("HOSTLER_PUBLIC_LISTEN");
});
