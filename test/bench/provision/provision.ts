import { join } from "node:path";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { importContainerImage } from "../../support/container-image.ts";
import { guestImage, importGuestImage } from "../../support/guest-image.ts";
import { openEmbeddedDatabase } from "../../support/embedded-database.ts";
import { quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import { startTestCloud, type TestCloud } from "../../support/cloud.ts";
import { bootBare, copyMachine, type BareMachine } from "./bare-machine.ts";
import { findLeftovers } from "./find-leftovers.ts";
import { cancelOne, provisionMany, provisionOne, releaseAll, type Provisioned } from "./provision-slices.ts";
import { measureVirtInstall } from "./virt-install.ts";

/** Starts that are given back as soon as QEMU runs. */
const STARTS = 100;
/** Slices that are waited for until their guest is up, one after another. */
const WHOLE = 20;
const TOGETHER = 6;
const PEER_RUNS = 20;

/** A control plane and an agent as two processes, the image in the host's cache, no GPU; a peer and a bare QEMU in the same run. */
export const provisionSuite: Suite = {
  about:
    "what the agent adds to the start of a virtual machine: overhead, phases, processor time; virt-install beside it",
  run: async (options) => await measureProvision(options),
};

async function measureProvision({ runs, say }: SuiteOptions): Promise<SuiteOutcome> {
  const cloud = await startTestCloud({ agentArgs: ["--drivers", "qemu,container"] });
  const sql = await openEmbeddedDatabase(join(cloud.folder, "control-plane"));
  try {
    await importGuestImage(cloud.operator);
    await importContainerImage(cloud.operator);
    const { path: image } = await guestImage();
    const stage: Stage = { cloud, sql, say, made: [] };
    const whole = await measureWhole(stage, image);
    const overheads = await measureOverhead(stage, runs ?? STARTS);
    const peer = await measureVirtInstall({ image, folder: cloud.folder, runs: PEER_RUNS }, say);
    const together = await measureTogether(stage);
    const containers = await measureContainers(stage);
    const left = await findLeftovers(cloud.agentOptions.stateDir, stage.made);
    for (const what of left) say(`left: ${what}`);
    const figures = {
      overhead_p50_ms: Math.round(quantile(overheads, 0.5)),
      overhead_p95_ms: Math.round(quantile(overheads, 0.95)),
      overhead_runs: overheads.length,
      ...whole,
      six_at_once_s: together,
      ...containers,
      leftovers: left.length,
    };
    return {
      figures,
      targets: [
        { figure: "overhead_p95_ms", atMost: 150 },
        { figure: "overhead_runs", atLeast: STARTS },
        { figure: "ready_to_bare_boot_ratio", atMost: 1.3 },
        { figure: "leftovers", atMost: 0 },
      ],
      peers: { "virt-install": peer },
    };
  } finally {
    await sql.end();
    await cloud.close();
  }
}

export interface Stage {
  readonly cloud: TestCloud;
  readonly sql: Sql;
  /** Every slice that was asked for. */
  readonly made: string[];
  say(line: string): void;
}

/** Slices one after another, each with a boot of the same machine by hand beside it. The first one fills the cache and is not counted. */
async function measureWhole(stage: Stage, image: string): Promise<Record<string, number>> {
  const slices: Provisioned[] = [];
  const bare: number[] = [];
  let machine: BareMachine | null = null;
  for (let index = 0; index <= WHOLE; index += 1) {
    const slice = await provisionOne(stage, `whole-${index}`, {
      whenReady: async (allocationId) => {
        const running = { allocationId, agentStateDir: stage.cloud.agentOptions.stateDir };
        machine ??= await copyMachine(running, { image, folder: stage.cloud.folder });
      },
    });
    if (index === 0 || machine === null) continue;
    slices.push(slice);
    bare.push(await bootBare(machine));
  }
  const ready = median(slices.map((slice) => slice.readyMs));
  stage.say(`ready in ${ready} ms, a bare boot takes ${median(bare)} ms`);
  return {
    ready_p50_ms: ready,
    bare_boot_p50_ms: median(bare),
    ready_to_bare_boot_ratio:
      Math.round(
        (quantile(
          slices.map((slice) => slice.readyMs),
          0.5,
        ) /
          quantile(bare, 0.5)) *
          1000,
      ) / 1000,
    release_p50_ms: median(slices.map((slice) => slice.releasedMs)),
    agent_cpu_p50_ms: median(slices.map((slice) => slice.agentCpuMs)),
    ...phaseMedians(slices, "phase"),
  };
}

/** Containers one after another; the first one fills the cache and is not counted. */
async function measureContainers(stage: Stage): Promise<Record<string, number>> {
  const slices: Provisioned[] = [];
  for (let index = 0; index <= WHOLE; index += 1) {
    const slice = await provisionOne(stage, `container-${index}`, { driver: "container" });
    if (index > 0) slices.push(slice);
  }
  stage.say(`containers are ready in ${median(slices.map((slice) => slice.readyMs))} ms`);
  return {
    container_ready_p50_ms: median(slices.map((slice) => slice.readyMs)),
    container_release_p50_ms: median(slices.map((slice) => slice.releasedMs)),
    container_agent_cpu_p50_ms: median(slices.map((slice) => slice.agentCpuMs)),
    ...phaseMedians(slices, "container_phase"),
  };
}

const median = (values: readonly number[]): number => Math.round(quantile(values, 0.5));

function phaseMedians(slices: readonly Provisioned[], prefix: string): Record<string, number> {
  const names = [...(slices[0]?.phases.keys() ?? [])];
  return Object.fromEntries(
    names.map((phase) => [
      `${prefix}_${phase}_ms`,
      median(slices.map((slice) => slice.phases.get(phase)?.durationMs ?? 0)),
    ]),
  );
}

/** From the moment in which the control plane writes the grant to the end of `start`, which has read the machine back as running. */
async function measureOverhead(stage: Stage, runs: number): Promise<number[]> {
  const overheads: number[] = [];
  for (let index = 0; index < runs; index += 1) {
    overheads.push(await cancelOne(stage, `start-${index}`));
    if ((index + 1) % 20 === 0) stage.say(`${index + 1} starts, p95 ${Math.round(quantile(overheads, 0.95))} ms`);
  }
  return overheads;
}

/** Seconds until all of them are up. */
async function measureTogether(stage: Stage): Promise<number> {
  const names = Array.from({ length: TOGETHER }, (_, index) => `together-${index}`);
  const { allocationIds, seconds } = await provisionMany(stage, names);
  await releaseAll(stage, allocationIds);
  return Math.round(seconds * 10) / 10;
}
