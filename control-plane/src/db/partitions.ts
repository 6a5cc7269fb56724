import type { Sql } from "./sql.ts";

/** Tables cut into days; the limit is how many past days are kept. */
const PARTITIONED = [
  { table: "telemetry_samples", daysKept: 7 },
  { table: "task_history", daysKept: 90 },
  { table: "phase_reports", daysKept: 90 },
] as const;
const DAYS_AHEAD = 2;
const DAY_MS = 86_400_000;

/** Makes the partitions of today and the days ahead. Safe to run on every replica at once. */
export async function makePartitions(sql: Sql, now: Date): Promise<void> {
  for (const { table } of PARTITIONED) {
    for (let day = -1; day <= DAYS_AHEAD; day += 1) {
      const start = dayOf(now, day);
      const end = dayOf(now, day + 1);
      await sql.unsafe(
        `create table if not exists ${partitionName(table, start)} partition of ${table} for values from ('${start}') to ('${end}')`,
      );
    }
  }
}

/** Drops partitions past their time: instant, where deleting their rows would bloat the table. May run twice. */
export async function dropPartitions(sql: Sql, now: Date): Promise<void> {
  for (const { table, daysKept } of PARTITIONED) {
    const oldest = partitionName(table, dayOf(now, -daysKept));
    const names = await sql<{ name: string }[]>`
      select c.relname as name
      from pg_inherits i
      join pg_class c on c.oid = i.inhrelid
      where i.inhparent = ${table}::regclass
    `;
    for (const { name } of names.filter((row) => row.name < oldest)) await sql.unsafe(`drop table if exists ${name}`);
  }
}

function partitionName(table: string, day: string): string {
  return `${table}_${day.replaceAll("-", "")}`;
}

/** The UTC date `days` from now, as YYYY-MM-DD. */
function dayOf(now: Date, days: number): string {
  return new Date(now.getTime() + days * DAY_MS).toISOString().slice(0, 10);
}
