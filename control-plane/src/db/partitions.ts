import { inTransaction } from "./transaction.ts";
import type { Queryable, Sql, Tx } from "./sql.ts";

interface PartitionedTable {
  /** Partitioned by range of a time, one partition a day in UTC, named `<table>_<YYYYMMDD>`. */
  readonly table: string;
  /** So many past days are kept when nobody asks for more or less. */
  readonly keepDays: number;
  /** What is unique within a day. A key over all days would have to contain the time, and would then promise nothing. */
  readonly uniqueInDay?: readonly string[];
  /** Rows are never changed. Triggers for rows are the parent's; the one against truncate each partition needs of its own. */
  readonly isAppendOnly?: boolean;
  /** A function of the database that takes the end of a day and says whether somebody still needs that day, or one before it. */
  readonly heldBy?: string;
}

/** Every table that is cut into days. A new one is a migration that partitions it, and a line here. */
export const PARTITIONED = [
  { table: "telemetry_samples", keepDays: 7 },
  { table: "task_history", keepDays: 90 },
  { table: "phase_reports", keepDays: 90 },
  {
    table: "events",
    keepDays: 30,
    uniqueInDay: ["id", "seq", "aggregate_id, aggregate_version"],
    isAppendOnly: true,
    heldBy: "events_held",
  },
  {
    table: "event_positions",
    keepDays: 30,
    uniqueInDay: ["position", "event_seq"],
    isAppendOnly: true,
    heldBy: "event_positions_held",
  },
] as const satisfies readonly PartitionedTable[];

/** What differs from the table above, by the operator's configuration. */
export type KeepDays = Partial<Record<(typeof PARTITIONED)[number]["table"], number>>;

/** Of what `HOSTLER_EVENT_KEEP_DAYS` says. */
export const keepEvents = (days: number): KeepDays => ({ events: days, event_positions: days });

/** A maintenance that does not run for so long stops every insert, so it is a week. */
const DAYS_AHEAD = 7;
const DAY_MS = 86_400_000;
/** Any number that nothing else locks. */
const LOCK_KEY = 4_107_823_393;
/** Whoever inserts waits behind us while we wait: give up, and come again with the next round. */
const LOCK_TIMEOUT_MS = 1000;

export interface PartitionsReport {
  readonly made: readonly string[];
  readonly dropped: readonly string[];
  /** Past their time, and still needed. */
  readonly held: readonly string[];
}

/**
 * Makes the partitions from yesterday to the days ahead, and drops those past their time. Dropping a day is instant where
 * deleting its rows would bloat the table. Each is a transaction of its own. Safe to run on every replica at once.
 */
export async function maintainPartitions(sql: Sql, now: Date, keepDays: KeepDays): Promise<PartitionsReport> {
  const report = { made: [] as string[], dropped: [] as string[], held: [] as string[] };
  // All are made before any is dropped: a drop that has to give up stops nothing that inserts depend on.
  for (const table of PARTITIONED) {
    const existing = await readPartitions(sql, table.table);
    for (let day = -1; day <= DAYS_AHEAD; day += 1) {
      const start = dayOf(now, day);
      if (existing.includes(partitionName(table.table, start))) continue;
      const isMade = await locked(sql, async (tx) => await makePartition(tx, table, start));
      if (isMade) report.made.push(partitionName(table.table, start));
    }
  }
  for (const table of PARTITIONED) {
    const oldest = partitionName(table.table, dayOf(now, -(keepDays[table.table] ?? table.keepDays)));
    const past = (await readPartitions(sql, table.table)).filter((name) => name < oldest);
    for (const name of past.toSorted()) {
      report[await locked(sql, async (tx) => await dropPartition(tx, table, name))].push(name);
    }
  }
  return report;
}

/**
 * Made beside the table and then attached: that waits for no reader or writer, and none waits for it, which `partition of` would.
 */
async function makePartition(tx: Tx, table: PartitionedTable, start: string): Promise<boolean> {
  const name = partitionName(table.table, start);
  if ((await readPartitions(tx, table.table)).includes(name)) return false;
  const end = dayOf(new Date(start), 1);
  const unique = (table.uniqueInDay ?? []).map((columns) => `, unique (${columns})`);
  await tx.unsafe(`create table ${name} (like ${table.table} including all excluding identity${unique.join("")})`);
  await tx.unsafe(`alter table ${table.table} attach partition ${name} for values from ('${start}Z') to ('${end}Z')`);
  if (table.isAppendOnly === true) {
    await tx.unsafe(
      `create trigger ${name}_no_truncate before truncate on ${name} for each statement execute function refuse_change()`,
    );
    await tx.unsafe(`alter table ${name} enable always trigger ${name}_no_truncate`);
  }
  return true;
}

async function dropPartition(tx: Tx, table: PartitionedTable, name: string): Promise<"dropped" | "held"> {
  if (table.heldBy !== undefined) {
    const day = name.slice(-8).replace(/^(\d{4})(\d\d)(\d\d)$/, "$1-$2-$3");
    const [row] = await tx<{ isHeld: boolean }[]>`
      select ${tx(table.heldBy)}(${`${dayOf(new Date(day), 1)}Z`}::timestamptz) as "isHeld"
    `;
    if (row?.isHeld !== false) return "held";
  }
  await tx.unsafe(`drop table if exists ${name}`);
  return "dropped";
}

/** One replica at a time, and none for longer than a second. */
async function locked<Result>(sql: Sql, work: (tx: Tx) => Promise<Result>): Promise<Result> {
  return await inTransaction(sql, async (tx) => {
    await tx`select pg_advisory_xact_lock(${LOCK_KEY})`;
    await tx.unsafe(`set local lock_timeout = ${LOCK_TIMEOUT_MS}`);
    return await work(tx);
  });
}

async function readPartitions(db: Queryable, table: string): Promise<string[]> {
  const rows = await db<{ name: string }[]>`
    select c.relname as name
    from pg_inherits i
    join pg_class c on c.oid = i.inhrelid
    where i.inhparent = ${table}::regclass
  `;
  return rows.map((row) => row.name).filter((name) => /^_\d{8}$/.test(name.slice(table.length)));
}

function partitionName(table: string, day: string): string {
  return `${table}_${day.replaceAll("-", "")}`;
}

/** The UTC date `days` from then, as YYYY-MM-DD. */
function dayOf(time: Date, days: number): string {
  return new Date(time.getTime() + days * DAY_MS).toISOString().slice(0, 10);
}
