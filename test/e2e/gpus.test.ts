import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { setFault } from "@hostler/node-agent/gpus/stand-in/install-stand-in.ts";
import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { imageSchema, nodeSchema } from "@hostler/shared/api/nodes.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import {
  followOperation,
  ownedSlots,
  readAllocation,
  readPhases,
  requestRelease,
  requestSlice,
} from "../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { makeGpuHardware, type GpuHardware } from "../support/gpu-hardware.ts";

/**
 * The agent's real adapters for GPUs, as a process of its own: nvidia-smi is the stand-in, and what the kernel shows of the cards is
 * made. The slices run nothing, so that what is tried is what happens to their GPUs.
 */
let hardware: GpuHardware;
let cloud: TestCloud;
beforeAll(async () => {
  hardware = await makeGpuHardware(["h100", "l40s"]);
  cloud = await startTestCloud({ agentArgs: ["--drivers", "mock"], agentEnv: hardware.env });
  await cloud.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
});
afterAll(async () => {
  await cloud?.close();
  await hardware?.close();
});

async function request(name: string, gpus: number): Promise<Allocation> {
  const { operator, projectId } = cloud;
  const wish = { projectId, name, image: "tiny", gpus, labels: { "hostler.dev/driver": "mock" } };
  const { id } = await requestSlice(operator, wish);
  await followOperation(operator, id, { timeoutMs: 60_000 });
  return await readAllocation(operator, id);
}

async function release(id: string): Promise<void> {
  await requestRelease(cloud.operator, id);
  await followOperation(cloud.operator, id, { timeoutMs: 60_000 });
}

async function holds(): Promise<string[]> {
  return await readdir(join(cloud.agentOptions.stateDir, "gpu-holds")).catch(() => []);
}

async function slotStates(): Promise<Readonly<Record<string, string>>> {
  const { slots } = await cloud.operator.get(`/api/ops/v1/nodes/${cloud.node.id}`, nodeSchema);
  return Object.fromEntries(slots.map(({ gpu, state }) => [gpu.uuid, state]));
}

test(
  "a slice gets real GPUs: judged, held, reset, examined, and given back with receipts",
  { timeout: 120_000 },
  async () => {
    expect(cloud.node).toMatchObject({ gpusSimulated: false });
    const slice = await request("both", 2);
    expect(slice.state).toBe("active");
    expect(await holds()).toHaveLength(2);
    const { phases } = await readPhases(cloud.operator, slice.id);
    const states = Object.fromEntries(phases.map(({ name, status }) => [name, status]));
    expect(states).toMatchObject({
      health: "done",
      quiesce: "done",
      carve: "not_needed",
      bind: "done",
      sanitize: "done",
    });
    await release(slice.id);
    expect(await readAllocation(cloud.operator, slice.id)).toMatchObject({ state: "released" });
    expect(await ownedSlots(cloud.operator, cloud.node.id)).toBe(0);
    expect(await holds()).toEqual([]);
  },
);

test(
  "a GPU that breaks under its slice is kept back, its neighbour and the disk are not",
  { timeout: 120_000 },
  async () => {
    const slice = await request("breaks", 2);
    const [sick, sound] = slice.gpus.map(({ uuid }) => uuid);
    const condition = { kind: "fail", gpu: sick ?? "", on: ["reset"], exitCode: 255, when: "before" } as const;
    await setFault(hardware.statePath, { ...condition, message: "Unable to reset GPU: Unknown Error" });
    await requestRelease(cloud.operator, slice.id);
    await followOperation(cloud.operator, slice.id, { timeoutMs: 90_000 });
    expect(await holds()).toEqual([]);
    expect(await readdir(join(cloud.agentOptions.stateDir, "mock")).catch(() => [])).toEqual([]);
    expect(await slotStates()).toEqual({ [sick ?? ""]: "quarantined", [sound ?? ""]: "available" });
    const { slots } = await cloud.operator.get(`/api/ops/v1/nodes/${cloud.node.id}`, nodeSchema);
    expect(slots.find(({ state }) => state === "quarantined")?.reason).toContain("Unable to reset GPU");
    const next = await request("next", 1);
    expect(next.gpus.map(({ uuid }) => uuid)).toEqual([sound]);
  },
);
