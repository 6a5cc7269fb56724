import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Allocation } from "@hostler/shared/api/allocations.ts";
import { readAllocation, requestRelease, requestSlice } from "../../../deploy/demo/journey.ts";
import { startTestCloud, type TestCloud } from "../../support/cloud.ts";
import { CONTAINER_IMAGE_NAME, importContainerImage } from "../../support/container-image.ts";
import { GUEST_IMAGE_NAME, importGuestImage } from "../../support/guest-image.ts";
import { allLeftovers } from "../../support/slice-leftovers.ts";
import { waitFor } from "../../support/wait-for.ts";
import { DEATH_FOLDER_VARIABLE, type DeathPlan, type PhaseTrace } from "./death-plan.ts";
import { traceKey, type Driver, type Profile } from "./kill-cases.ts";

const PRELOAD = new URL("./die-at.ts", import.meta.url);
export const TIMEOUT_MS = 120_000;
const GPUS = 2;

/** A control plane and an agent that dies when it is told to; one slice at a time. */
export interface Lane {
  readonly cloud: TestCloud;
  /** For the life that runs and those after it; null: they live. */
  plan(plan: DeathPlan | null): Promise<void>;
  request(name: string, driver: Driver): Promise<string>;
  release(allocationId: string): Promise<void>;
  waitForState(allocationId: string, states: readonly Allocation["state"][]): Promise<Allocation["state"]>;
  leftovers(allocationId: string): Promise<string[]>;
  /** What phases did since this was asked last, while there was a plan. */
  takeTraces(): Promise<Profile>;
  /** After a case that broke off: the next one finds an agent that runs and lives. */
  mend(): Promise<void>;
  readonly deathFolder: string;
  close(): Promise<void>;
}

export async function openLane(deathFolder: string): Promise<Lane> {
  await mkdir(deathFolder, { recursive: true });
  const cloud = await startTestCloud({
    agentArgs: ["--drivers", "qemu,container", "--simulate-gpus", `h100x${GPUS}`],
    agentEnv: { NODE_OPTIONS: `--import=${PRELOAD.href}`, [DEATH_FOLDER_VARIABLE]: deathFolder },
  });
  try {
    await importGuestImage(cloud.operator);
    await importContainerImage(cloud.operator);
    return makeLane(cloud, deathFolder);
  } catch (error) {
    await cloud.close();
    throw error;
  }
}

function makeLane(cloud: TestCloud, deathFolder: string): Lane {
  const { operator, projectId } = cloud;
  const { stateDir } = cloud.agentOptions;
  return {
    cloud,
    deathFolder,
    plan: async (plan) => {
      const path = join(deathFolder, "plan.json");
      await rm(join(deathFolder, "died.json"), { force: true });
      await (plan === null ? rm(path, { force: true }) : writeFile(path, JSON.stringify(plan)));
    },
    request: async (name, driver) => {
      const labels = driver === "qemu" ? {} : { "hostler.dev/driver": driver };
      const image = driver === "qemu" ? GUEST_IMAGE_NAME : CONTAINER_IMAGE_NAME;
      return (await requestSlice(operator, { projectId, name, image, gpus: 1, labels })).id;
    },
    release: async (allocationId) => await requestRelease(operator, allocationId),
    waitForState: async (allocationId, states) =>
      await waitFor(
        `${allocationId} is ${states.join(" or ")}`,
        async () => {
          const { state } = await readAllocation(operator, allocationId);
          return states.includes(state) ? state : undefined;
        },
        { timeoutMs: TIMEOUT_MS, everyMs: 50 },
      ),
    leftovers: async (allocationId) =>
      await allLeftovers(
        { allocationId, generation: 1 },
        { stateDir, runDir: join(cloud.folder, "run"), operator, nodeId: cloud.node.id },
      ),
    takeTraces: async () => {
      const path = join(deathFolder, "trace.jsonl");
      const text = await readFile(path, "utf8").catch(() => "");
      await rm(path, { force: true });
      const traces = text
        .split("\n")
        .filter((line) => line !== "")
        .map((line) => JSON.parse(line) as PhaseTrace);
      return new Map(traces.map((trace) => [traceKey(trace), trace]));
    },
    mend: async () => {
      await rm(join(deathFolder, "plan.json"), { force: true });
      cloud.agent.kill("SIGKILL");
      await cloud.agent.exited;
      cloud.restartAgent();
    },
    close: async () => await cloud.close(),
  };
}
