import { startLiveness, type Liveness } from "@hostler/control-plane/nodes/liveness.ts";
import { openPool } from "@hostler/control-plane/db/pool.ts";
import { openLog } from "@hostler/control-plane/log.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { makeBulkNodes, makeReady } from "../../support/bulk-nodes.ts";
import type { Suite, SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes, type SuitePlanes } from "../../support/suite-planes.ts";
import { measureDatabase } from "./measure-database.ts";
import { loseNodes, startAgents, surviveOutage } from "./silence.ts";

const NODES = 10_000;
const MEASURED_S = 60;
/** Processes that really poll: those that die, and those that wait out the outage. */
const AGENTS = { dying: 10, staying: 10 };
const OUTAGE_S = Number(process.env["HOSTLER_BENCH_OUTAGE_S"] ?? 300);
/** Nobody is judged within a minute of a start. */
const GRACE_MS = 75_000;

/**
 * What heartbeats cost the database, and what they tell: ten thousand nodes that hold their lines, heard by the product's own
 * flusher; agents beside them that die; an outage of PostgreSQL for all.
 */
export const heartbeatsSuite: Suite = {
  about:
    "10,000 nodes heard every 10 s: processor and write-ahead log of PostgreSQL, when a dead node is seen, and a database outage",
  run: async ({ runs, say }) => {
    const count = runs ?? NODES;
    const planes = await startSuitePlanes(1);
    const agents = await startAgents(planes, AGENTS.dying + AGENTS.staying);
    const pool = openPool({ url: planes.database.url, applicationName: "hostler heartbeats", connectionsMax: 2 });
    const log = openLog("error");
    const liveness = startLiveness({ sql: pool, clock: systemClock, log, replicaId: "bench" });
    try {
      return await measure(planes, { count, liveness, agents, say });
    } finally {
      for (const agent of agents) await agent.stop();
      await liveness.close();
      await pool.end({ timeout: 2 });
      await planes.close();
    }
  },
};

async function measure(
  planes: SuitePlanes,
  parts: {
    readonly count: number;
    readonly liveness: Liveness;
    readonly agents: Awaited<ReturnType<typeof startAgents>>;
    say(line: string): void;
  },
): Promise<SuiteOutcome> {
  const { count, liveness, agents, say } = parts;
  const { nodes } = await makeBulkNodes(planes, count);
  await makeReady(
    planes.sql,
    [...nodes, ...agents].map(({ nodeId }) => nodeId),
  );
  // What a bulk load leaves behind would be tidied up, and written, while we measure something else.
  await planes.sql`vacuum analyze`;
  await planes.sql`checkpoint`;
  say(`${nodes.length} nodes, ${agents.length} agents`);
  const idle = await measureDatabase(planes.sql, MEASURED_S);
  const lines = nodes.map(({ nodeId }) => ({ nodeId, agentInstance: nodeId, ackedRevision: 0, trustVersion: 1 }));
  for (const line of lines) liveness.noteWaiting(line);
  await Promise.all(lines.map(async (line) => await liveness.noteSeen(line)));
  await systemClock.sleep(GRACE_MS, new AbortController().signal);
  const busy = await measureDatabase(planes.sql, MEASURED_S);
  say(`${round(busy.cpuPercent)} % of a core, ${round(busy.walKbPerS)} kB/s; idle ${round(idle.cpuPercent)} %`);
  const seenAfterS = await loseNodes(planes.sql, agents.slice(0, AGENTS.dying));
  say(`dead nodes were seen after ${seenAfterS.map(round).join(", ")} s`);
  const outage = await surviveOutage(planes, { seconds: OUTAGE_S, agents: agents.slice(AGENTS.dying) });
  const [size] = await planes.sql<{ kib: number }[]>`
    select (pg_total_relation_size('node_liveness') / 1024)::int as kib
  `;
  return {
    figures: {
      nodes: count,
      postgres_cpu_percent: round(busy.cpuPercent - idle.cpuPercent),
      wal_kb_per_s: round(busy.walKbPerS - idle.walKbPerS),
      table_kib: size?.kib ?? 0,
      idle_cpu_percent: round(idle.cpuPercent),
      dead_node_seen_max_s: round(Math.max(...seenAfterS)),
      dead_node_seen_min_s: round(Math.min(...seenAfterS)),
      outage_s: OUTAGE_S,
      agents_refused_in_outage: outage.refused,
      agents_back: outage.back,
      false_downs: outage.falseDowns,
    },
    targets: [
      { figure: "nodes", atLeast: NODES },
      { figure: "postgres_cpu_percent", atMost: 1.5 },
      { figure: "wal_kb_per_s", atMost: 150 },
      { figure: "dead_node_seen_max_s", atMost: 30 },
      { figure: "outage_s", atLeast: 300 },
      { figure: "agents_refused_in_outage", atLeast: AGENTS.staying },
      { figure: "agents_back", atLeast: AGENTS.staying },
      { figure: "false_downs", atMost: 0 },
    ],
  };
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
