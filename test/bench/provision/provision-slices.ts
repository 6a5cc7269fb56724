import { readFile } from "node:fs/promises";
import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { followOperation, readAllocation, requestRelease, requestSlice } from "../../../deploy/demo/journey.ts";
import { CONTAINER_IMAGE_NAME } from "../../support/container-image.ts";
import { GUEST_IMAGE_NAME } from "../../support/guest-image.ts";
import { waitFor } from "../../support/wait-for.ts";
import type { Stage } from "./provision.ts";
import { readProvision, type PhaseEnd } from "./read-journal.ts";

const TIMEOUT_MS = 240_000;
const CLOCK_TICK_MS = 10;

export interface Provisioned {
  /** From the tenant's request to the proof that the guest is up. */
  readonly readyMs: number;
  /** From the tenant's wish to give it back to the end of that. */
  readonly releasedMs: number;
  /** Processor time of the agent's own process for the way up and down; its commands and machines are not in it. */
  readonly agentCpuMs: number;
  readonly phases: ReadonlyMap<string, PhaseEnd>;
}

/** One slice, up and down. */
export async function provisionOne(
  stage: Stage,
  name: string,
  options: { readonly driver?: "qemu" | "container"; whenReady?(allocationId: string): Promise<void> } = {},
): Promise<Provisioned> {
  const { cloud } = stage;
  const cpuBeforeMs = await ownProcessorMs(cloud.agent.pid);
  const requestedMs = systemClock.now().getTime();
  const { id } = await request(stage, name, options.driver);
  await followOperation(cloud.operator, id, { timeoutMs: TIMEOUT_MS });
  const phases = await readProvision(cloud.agentOptions.stateDir, id);
  await options.whenReady?.(id);
  const releaseMs = systemClock.monotonicMs();
  await releaseAll(stage, [id]);
  return {
    readyMs: (phases.get("guest_ready")?.endedMs ?? Number.NaN) - requestedMs,
    releasedMs: systemClock.monotonicMs() - releaseMs,
    agentCpuMs: (await ownProcessorMs(cloud.agent.pid)) - cpuBeforeMs,
    phases,
  };
}

/** Gives a slice back as soon as its machine runs. Resolves with the time from the grant until then, ms. */
export async function cancelOne(stage: Stage, name: string): Promise<number> {
  const { cloud, sql } = stage;
  const { id } = await request(stage, name);
  const start = await waitFor(
    "the machine runs",
    async () => (await readProvision(cloud.agentOptions.stateDir, id)).get("start"),
    { timeoutMs: TIMEOUT_MS, everyMs: 10 },
  );
  const [granted] = await sql<{ atMs: number }[]>`
    select (extract(epoch from min(l.at)) * 1000)::float8 as "atMs"
    from tasks t
    join audit_log l on l.target_id = t.id and l.action = 'task.granted'
    where t.target_id = ${id}
  `;
  await releaseAll(stage, [id]);
  return start.endedMs - (granted?.atMs ?? Number.NaN);
}

/** All at the same time; resolves when each is up. */
export async function provisionMany(
  stage: Stage,
  names: readonly string[],
): Promise<{ readonly allocationIds: readonly string[]; readonly seconds: number }> {
  const { cloud } = stage;
  const startedMs = systemClock.monotonicMs();
  const slices = await Promise.all(names.map(async (name) => await request(stage, name)));
  await Promise.all(slices.map(async ({ id }) => await followOperation(cloud.operator, id, { timeoutMs: TIMEOUT_MS })));
  return { allocationIds: slices.map(({ id }) => id), seconds: (systemClock.monotonicMs() - startedMs) / 1000 };
}

export async function releaseAll({ cloud }: Stage, allocationIds: readonly string[]): Promise<void> {
  await Promise.all(
    allocationIds.map(async (id) => {
      await requestRelease(cloud.operator, id);
      const isGone = async (): Promise<boolean> => {
        const { state } = await readAllocation(cloud.operator, id);
        return state === "released";
      };
      await waitFor(`${id} is given back`, isGone, { timeoutMs: TIMEOUT_MS });
    }),
  );
}

async function request({ cloud, made }: Stage, name: string, driver = "qemu"): Promise<Allocation> {
  const image = driver === "qemu" ? GUEST_IMAGE_NAME : CONTAINER_IMAGE_NAME;
  const labels = { "hostler.dev/driver": driver };
  const slice = { projectId: cloud.projectId, name, image, gpus: 0, labels };
  const allocation = await requestSlice(cloud.operator, slice);
  made.push(allocation.id);
  return allocation;
}

async function ownProcessorMs(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * CLOCK_TICK_MS;
}
