import { existsSync } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { imageSchema, nodeSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { startAgentProgram } from "../../../deploy/demo/local-cloud.ts";
import type { Program } from "../../../deploy/demo/program.ts";
import { childrenOf } from "../../support/child-processes.ts";
import { judgeEffects, readEffects } from "../../support/effects.ts";
import { enrolKeptNode } from "../../support/kept-node.ts";
import { startKilledPostgres, type KilledPostgres } from "../../support/killed-postgres.ts";
import { makeRandom, quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes, type SuitePlanes } from "../../support/suite-planes.ts";
import { waitFor } from "../../support/wait-for.ts";
import { checkBooks } from "./check.ts";
import { startTenants, type Tenants } from "./tenants.ts";

const KILLS = 24;
const AGENTS = 4;
const TENANTS = 8;
/** Longer than a lease: a task whose grant was lost on the way is granted again when it ends. */
const FINISH_MS = 90_000;
const never = new AbortController().signal;

export const postgresSuite: Suite = {
  about: "PostgreSQL killed every 5 to 10 s for 3 min under load: nothing lost, nothing doubled, back within 3 s",
  run: async (options) => {
    const outcome = await killOverAndOver({
      ...options,
      kills: options.runs ?? KILLS,
      pauseMs: [5000, 10_000],
      agents: AGENTS,
      tenants: TENANTS,
    });
    return { ...outcome, targets: [...outcome.targets, { figure: "kills", atLeast: options.runs ?? KILLS }] };
  },
};

export interface KillOptions extends SuiteOptions {
  readonly kills: number;
  readonly agents: number;
  readonly tenants: number;
  /** The shortest and the longest time between one start and the next kill. */
  readonly pauseMs: readonly [number, number];
}

export async function killOverAndOver(options: KillOptions): Promise<SuiteOutcome> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-killed-"));
  await chmod(folder, 0o755);
  const database = await startKilledPostgres({ stateDir: folder });
  const planes = await startSuitePlanes(2, { database });
  const agents: Program[] = [];
  let tenants: Tenants | null = null;
  try {
    const effectLogs = await startAgents(planes, agents, options.agents);
    const processes = watchProcesses(planes, agents);
    tenants = startTenants(planes, options.tenants);
    const { slices, problems: refusals } = tenants;
    await waitFor("the first slice", async () => refusals.length > 0 || slices.some((slice) => slice.isActive));
    const accepts = await killAll(database, options);
    await tenants.finish(FINISH_MS);
    const verdict = await checkBooks(planes, tenants.slices);
    const effects = judgeEffects(await readEffects(effectLogs));
    const exits = processes.ended();
    const problems = [...tenants.problems, ...verdict.lost, ...verdict.doubled, ...verdict.broken];
    for (const line of [...problems, ...effects.doubled, ...effects.twoOwners, ...exits])
      options.say(`PROBLEM ${line}`);
    const counts = [...tenants.requests.refused].map(([code, times]) => `${times} ${code}`);
    options.say(`refused on the way: ${counts.join(", ")}`);
    const back = await timesBack(planes, tenants, accepts);
    options.say(`back, grant/write in ms: ${back.map((one) => `${one.grantMs}/${one.writeMs}`).join(" ")}`);
    const backMs = back.map((one) => Math.max(one.grantMs, one.writeMs));
    return {
      figures: {
        kills: accepts.length,
        requests: tenants.requests.sent,
        allocations: tenants.slices.length,
        lost: verdict.lost.length + tenants.problems.length,
        doubled: verdict.doubled.length + effects.doubled.length,
        slots_with_two_owners: effects.twoOwners.length,
        broken_books: verdict.broken.length,
        dispatch_back_p50_ms: quantile(backMs, 0.5),
        dispatch_back_max_ms: Math.max(...backMs),
        process_exits: exits.length,
        false_downs: verdict.falseDowns,
      },
      targets: [
        ...["lost", "doubled", "slots_with_two_owners", "broken_books", "process_exits", "false_downs"].map(
          (figure) => ({
            figure,
            atMost: 0,
          }),
        ),
        { figure: "dispatch_back_max_ms", atMost: 3000 },
      ],
    };
  } finally {
    await tenants?.finish(0);
    for (const agent of agents) await agent.stop();
    await planes.close();
    await rm(folder, { recursive: true, force: true });
  }
}

/** Real agents with the mock driver, half of them at each replica. Resolves with where each writes its effects. */
async function startAgents(planes: SuitePlanes, agents: Program[], count: number): Promise<string[]> {
  const [first] = planes.replicas;
  await first?.operator.upload("/api/ops/v1/images/tiny?format=raw", new Blob(["tiny"]), imageSchema);
  const logs: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const stateDir = join(planes.folder, `agent-${index}`);
    const server = planes.replicas[index % planes.replicas.length]?.server ?? "";
    await enrolKeptNode({ stateDir, server, token: await planes.makeToken(), name: `killed-${index}` });
    const effects = join(planes.folder, `effects-${index}.jsonl`);
    logs.push(effects);
    agents.push(
      startAgentProgram({
        stateDir,
        logPath: join(planes.folder, `agent-${index}.log`),
        args: ["--simulate-gpus", "h100x8", "--drivers", "mock"],
        env: { HOSTLER_AGENT_RUN_DIR: join(planes.folder, `run-${index}`), HOSTLER_AGENT_MOCK_EFFECTS: effects },
      }),
    );
  }
  await waitFor("all nodes", async () => {
    const nodes = (await first?.operator.list("/api/ops/v1/nodes", nodeSchema)) ?? [];
    return nodes.filter((node) => node.state === "ready" && node.online).length === count;
  });
  return logs;
}

/** The programs and what they started: signers are processes of their own. */
function watchProcesses(planes: SuitePlanes, agents: readonly Program[]): { ended(): readonly string[] } {
  const programs = [
    ...planes.replicas.map((replica, index) => ({ name: `replica ${index}`, pid: replica.pid() })),
    ...agents.map((agent, index) => ({ name: `agent ${index}`, pid: agent.pid })),
  ];
  const watched = programs.flatMap(({ name, pid }) => [
    { name, pid },
    ...childrenOf(pid).map((child) => ({ name: `a child of ${name}`, pid: child })),
  ]);
  return {
    ended: () => watched.filter(({ pid }) => !existsSync(`/proc/${pid}`)).map(({ name }) => `${name} ended`),
  };
}

interface Accepted {
  readonly monotonicMs: number;
  readonly at: Date;
}

/** Resolves with when PostgreSQL accepted again, after each kill. */
async function killAll(database: KilledPostgres, options: KillOptions): Promise<Accepted[]> {
  const random = makeRandom(options.seed);
  const [leastMs, mostMs] = options.pauseMs;
  const accepts: Accepted[] = [];
  for (let kill = 0; kill < options.kills; kill += 1) {
    await systemClock.sleep(leastMs + random() * (mostMs - leastMs), never);
    const death = random() < 0.5 ? "SIGKILL" : "SIGQUIT";
    const awayMs = Math.round(random() * 2000);
    await database.kill(death);
    await systemClock.sleep(awayMs, never);
    await database.start();
    accepts.push({ monotonicMs: systemClock.monotonicMs(), at: systemClock.now() });
    options.say(`kill ${kill + 1} of ${options.kills}: ${death}, started again after ${awayMs} ms`);
  }
  await systemClock.sleep(leastMs, never);
  return accepts;
}

interface Back {
  readonly grantMs: number;
  readonly writeMs: number;
}

/** After each return: until a task was granted, and until a write of a tenant was accepted. */
async function timesBack(planes: SuitePlanes, tenants: Tenants, accepts: readonly Accepted[]): Promise<Back[]> {
  const grants = await planes.sql<{ at: Date }[]>`
    select at from audit_log where action = 'task.granted' order by at
  `;
  return accepts.map(({ monotonicMs, at }) => {
    const granted = grants.find((grant) => grant.at >= at);
    const write = tenants.writesAtMs.find((writeMs) => writeMs >= monotonicMs);
    return {
      grantMs: granted === undefined ? FINISH_MS : granted.at.getTime() - at.getTime(),
      writeMs: write === undefined ? FINISH_MS : Math.round(write - monotonicMs),
    };
  });
}
