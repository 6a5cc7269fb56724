import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { setFault } from "@hostler/node-agent/gpus/stand-in/install-stand-in.ts";
import { allocationOperationSchema, type Allocation } from "@hostler/shared/api/allocations.ts";
import { imageSchema, nodeSchema } from "@hostler/shared/api/nodes.ts";
import { afterAll, beforeAll, expect, test } from "vitest";
import { followOperation, ownedSlots, readAllocation, readPhases, requestRelease } from "../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../support/cloud.ts";
import { makeGpuHardware, type GpuHardware } from "../support/gpu-hardware.ts";

/**
 * The agent's real adapters for GPUs, as a process of its own: nvidia-smi is the stand-in, and what the kernel shows of the cards is
 * made. The slices run nothing, so that what is tried is what happens to their GPUs.
 */
let hardware: GpuHardware;
let cloud: TestCloud;
beforeAll(async () => {
  hardware = await makeGpuHardware(["h100", "l40s", "h100"]);
  cloud = await startTestCloud({ agentArgs: ["--drivers", "mock", "--mig", "2"], agentEnv: hardware.env });
  await cloud.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
});
afterAll(async () => {
  await cloud?.close();
  await hardware?.close();
});

async function request(name: string, count: number, kind: string | null = null): Promise<Allocation> {
  const { operator, projectId } = cloud;
  const wish = { name, image: "tiny", gpus: { count, kind }, labels: { "hostler.dev/driver": "mock" } };
  const path = `/api/tenant/v1/projects/${projectId}/allocations`;
  const { id } = (await operator.post(path, wish, allocationOperationSchema)).allocation;
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
    expect(await slotStates()).toMatchObject({ [sick ?? ""]: "quarantined", [sound ?? ""]: "available" });
    const { slots } = await cloud.operator.get(`/api/ops/v1/nodes/${cloud.node.id}`, nodeSchema);
    expect(slots.find(({ state }) => state === "quarantined")?.reason).toContain("Unable to reset GPU");
    const next = await request("next", 1);
    expect(next.gpus.map(({ uuid }) => uuid)).toEqual([sound]);
  },
);

test(
  "slices get MIG instances of a card that is given in parts, each its own, and leave none",
  { timeout: 120_000 },
  async () => {
    const card = (await hardware.cards())[2];
    const [one, two] = [await request("one", 2, "h100-1g.10gb"), await request("two", 1, "h100-3g.40gb")];
    const slots = [...one.gpus, ...two.gpus].map(({ uuid }) => uuid);
    expect(new Set(slots).size).toBe(3);
    for (const slot of slots) expect(slot).toMatch(new RegExp(`^${card?.uuid}/`));
    expect((await hardware.cards())[2]?.instances).toHaveLength(3);
    await release(one.id);
    expect((await hardware.cards())[2]?.instances).toHaveLength(1);
    await release(two.id);
    expect((await hardware.cards())[2]?.instances).toEqual([]);
    expect((await holds()).filter((name) => name.startsWith(card?.uuid ?? "none"))).toEqual([]);
    expect(Object.keys(await slotStates()).filter((slot) => slot.includes("/"))).toEqual([]);
  },
);
