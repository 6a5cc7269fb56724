import { readdir, readFile } from "node:fs/promises";
import { flushLiveness } from "@hostler/control-plane/nodes/store.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { makeBulkNodes } from "../support/bulk-nodes.ts";
import type { Suite } from "../support/suite.ts";
import { startSuitePlanes } from "../support/suite-planes.ts";

const NODES = 10_000;
const EVERY_MS = 10_000;
const ROUNDS = 6;
const CLOCK_TICKS_PER_S = 100;
const never = new AbortController().signal;

/** What heartbeats cost the database: the statement that a replica's flusher sends, for ten thousand nodes every ten seconds. */
export const heartbeatsSuite: Suite = {
  about: "10,000 nodes heard every 10 s: processor and write-ahead log of PostgreSQL, above what it takes idle",
  run: async ({ runs, say }) => {
    const count = runs ?? NODES;
    const planes = await startSuitePlanes(1);
    try {
      const { nodes } = await makeBulkNodes(planes, count);
      const seen = nodes.map(({ nodeId }) => ({ nodeId, agentInstance: nodeId, ackedRevision: 0, trustVersion: 1 }));
      const flush = async (): Promise<void> => await flushLiveness(planes.sql, seen);
      // The first round inserts; then vacuum and checkpoint, so that each measured span has the same to do.
      await flush();
      await planes.sql`vacuum analyze node_liveness`;
      await planes.sql`checkpoint`;
      say(`${count} nodes`);
      const idle = await measure(planes.sql, async () => await Promise.resolve());
      const busy = await measure(planes.sql, flush);
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
        },
        targets: [
          { figure: "nodes", atLeast: NODES },
          { figure: "postgres_cpu_percent", atMost: 1.5 },
          { figure: "wal_kb_per_s", atMost: 150 },
        ],
      };
    } finally {
      await planes.close();
    }
  },
};

interface Cost {
  readonly cpuPercent: number;
  readonly walKbPerS: number;
}

/** Repeats the work in its rhythm and looks at all processes of PostgreSQL, its background writers among them. */
async function measure(sql: Sql, work: () => Promise<void>): Promise<Cost> {
  const [server] = await sql<{ pid: number }[]>`
    select pg_backend_pid() as pid
  `;
  const postmaster = await parentOf(server?.pid ?? 0);
  const before = { ticks: await ticksOf(postmaster), wal: await walBytes(sql) };
  for (let turn = 0; turn < ROUNDS; turn += 1) {
    const startedMs = systemClock.monotonicMs();
    await work();
    await systemClock.sleep(EVERY_MS - (systemClock.monotonicMs() - startedMs), never);
  }
  const seconds = (ROUNDS * EVERY_MS) / 1000;
  const ticks = (await ticksOf(postmaster)) - before.ticks;
  const wal = (await walBytes(sql)) - before.wal;
  return { cpuPercent: (100 * ticks) / CLOCK_TICKS_PER_S / seconds, walKbPerS: wal / 1000 / seconds };
}

async function walBytes(sql: Sql): Promise<number> {
  const [row] = await sql<{ bytes: number }[]>`
    select (pg_current_wal_lsn() - '0/0')::float8 as bytes
  `;
  return row?.bytes ?? 0;
}

/** Processor time of the server and all that it started, those that ended meanwhile included, in clock ticks. */
async function ticksOf(postmaster: number): Promise<number> {
  const pids = (await readdir("/proc")).filter((name) => /^\d+$/.test(name)).map(Number);
  let ticks = 0;
  for (const pid of pids) {
    const fields = await statOf(pid);
    if (pid === postmaster) ticks += sum(fields, 11, 14);
    else if (Number(fields[1]) === postmaster) ticks += sum(fields, 11, 12);
  }
  return ticks;
}

async function parentOf(pid: number): Promise<number> {
  return Number((await statOf(pid))[1]);
}

/** The fields behind the program's name: state, parent, …; utime, stime, cutime and cstime are 11 to 14. */
async function statOf(pid: number): Promise<readonly string[]> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

function sum(fields: readonly string[], from: number, to: number): number {
  return fields.slice(from, to + 1).reduce((total, field) => total + Number(field), 0);
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
