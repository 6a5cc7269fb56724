import { readdir, readFile } from "node:fs/promises";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { systemClock } from "@hostler/shared/clock.ts";

const CLOCK_TICKS_PER_S = 100;
const never = new AbortController().signal;

export interface Cost {
  readonly cpuPercent: number;
  readonly walKbPerS: number;
}

/** What PostgreSQL takes for that long, all its processes together, its background writers among them. */
export async function measureDatabase(sql: Sql, seconds: number): Promise<Cost> {
  const [server] = await sql<{ pid: number }[]>`
    select pg_backend_pid() as pid
  `;
  const postmaster = await parentOf(server?.pid ?? 0);
  const before = { ticks: await ticksOf(postmaster), wal: await walBytes(sql) };
  await systemClock.sleep(seconds * 1000, never);
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
