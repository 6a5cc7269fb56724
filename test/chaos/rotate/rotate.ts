import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { pkiStatusSchema, type PkiStatus, type RotationStep } from "@hostler/shared/api/pki.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { expireIdentity } from "../../support/expire-identity.ts";
import { enrolKeptNode, startKeptNode } from "../../support/kept-node.ts";
import type { Suite, SuiteOptions, SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes, type SuitePlanes } from "../../support/suite-planes.ts";
import { waitFor } from "../../support/wait-for.ts";

const WORKER = fileURLToPath(new URL("./rotate-worker.ts", import.meta.url));
const WORKERS = 2;
const AGENTS = 100;
const EVERY_MS = 20_000;
const never = new AbortController().signal;

/** What a worker says when it is asked. */
export interface WorkerCounts {
  readonly answered: number;
  readonly failed: Readonly<Record<string, number>>;
}

export const rotateSuite: Suite = {
  about: "100 agents while the authorities are rotated every 20 s for 3 min; a host that slept through it all returns",
  run: async (options) =>
    await rotateUnderAgents({ ...options, agents: AGENTS, rotations: options.runs ?? 9, everyMs: EVERY_MS }),
};

/** `rotations` rotations, one every `everyMs`, under `agents` agents in two processes. */
export async function rotateUnderAgents(
  options: SuiteOptions & { readonly agents: number; readonly rotations: number; readonly everyMs: number },
): Promise<SuiteOutcome> {
  const planes = await startSuitePlanes(2);
  const workers: ChildProcess[] = [];
  try {
    const folders = await enrolAll(planes, options.agents, options.say);
    const sleeper = join(planes.folder, "sleeper");
    await enrolKeptNode({
      stateDir: sleeper,
      server: serverOf(planes, 0),
      token: await planes.makeToken(),
      name: "sleeper",
    });
    await expireIdentity({ stateDir: planes.stateDir, sql: planes.sql }, { stateDir: sleeper });
    for (let index = 0; index < WORKERS; index += 1) {
      const mine = folders.filter((_, folder) => folder % WORKERS === index);
      workers.push(fork(WORKER, mine, { stdio: ["ignore", "inherit", "inherit", "ipc"] }));
    }
    await waitFor("all agents online", async () => (await statusOf(planes)).nodes.online >= options.agents, {
      timeoutMs: 120_000,
    });
    const durations: number[] = [];
    for (let round = 1; round <= options.rotations; round += 1) {
      const startedMs = systemClock.monotonicMs();
      await rotateOnce(planes);
      durations.push(systemClock.monotonicMs() - startedMs);
      options.say(`rotation ${round} of ${options.rotations} took ${Math.round(durations.at(-1) ?? 0)} ms`);
      await systemClock.sleep(Math.max(0, options.everyMs - (durations.at(-1) ?? 0)), never);
    }
    const counts = await Promise.all(workers.map(countsOf));
    const failed = counts.flatMap((count) => Object.entries(count.failed));
    for (const [code, times] of failed) options.say(`failed polls: ${times} ${code}`);
    const back = await returnOf(sleeper);
    return {
      figures: {
        agents: options.agents,
        rotations: options.rotations,
        rotation_ms_max: Math.round(Math.max(...durations)),
        answered_polls: counts.reduce((sum, count) => sum + count.answered, 0),
        failed_polls: failed.reduce((sum, [, times]) => sum + times, 0),
        sleeper_returned: back.returned ? 1 : 0,
        sleeper_refused_polls: back.refused,
      },
      targets: [
        { figure: "failed_polls", atMost: 0 },
        { figure: "sleeper_returned", atLeast: 1 },
        { figure: "rotations", atLeast: options.rotations },
      ],
    };
  } finally {
    for (const worker of workers) worker.kill("SIGKILL");
    await planes.close();
  }
}

async function enrolAll(planes: SuitePlanes, agents: number, say: (line: string) => void): Promise<string[]> {
  const folders: string[] = [];
  for (let index = 0; index < agents; index += 1) {
    const stateDir = join(planes.folder, `agent-${index}`);
    const server = serverOf(planes, index % 2);
    await enrolKeptNode({ stateDir, server, token: await planes.makeToken(), name: `agent-${index}` });
    folders.push(stateDir);
  }
  say(`${agents} agents enrolled`);
  return folders;
}

/** As `hostler pki rotate` does it: each step waits for all that are online. */
async function rotateOnce(planes: SuitePlanes): Promise<void> {
  const steps: readonly (readonly [RotationStep, (status: PkiStatus["nodes"]) => number])[] = [
    ["prepare", (nodes) => nodes.online],
    ["issue", (nodes) => nodes.withNewestTrust],
    ["retire", (nodes) => nodes.onActiveAuthority],
  ];
  for (const [index, [step, ready]] of steps.entries()) {
    await waitFor(
      `hosts ready for ${step}`,
      async () => {
        const { nodes } = await statusOf(planes);
        return ready(nodes) >= nodes.online;
      },
      { timeoutMs: 60_000 },
    );
    const replica = planes.replicas[index % planes.replicas.length];
    await replica?.operator.post("/api/ops/v1/pki/rotation", { step, force: false }, pkiStatusSchema);
  }
}

async function countsOf(worker: ChildProcess): Promise<WorkerCounts> {
  worker.send("counts");
  const [counts] = (await once(worker, "message")) as [WorkerCounts];
  return counts;
}

async function returnOf(sleeper: string): Promise<{ readonly returned: boolean; readonly refused: number }> {
  const node = await startKeptNode(sleeper);
  const returned = await waitFor("the sleeper", async () => node.polls.answered > 0, { timeoutMs: 30_000 }).catch(
    () => false,
  );
  await node.stop();
  return { returned, refused: [...node.polls.failed.values()].reduce((sum, times) => sum + times, 0) };
}

async function statusOf(planes: SuitePlanes): Promise<PkiStatus> {
  const [first] = planes.replicas;
  if (first === undefined) throw new Error("no replica");
  return await first.operator.get("/api/ops/v1/pki", pkiStatusSchema);
}

function serverOf(planes: SuitePlanes, index: number): string {
  return planes.replicas[index]?.server ?? "";
}
