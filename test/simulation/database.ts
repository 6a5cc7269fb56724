import { existsSync } from "node:fs";
import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startEmbeddedPostgres } from "@hostler/control-plane/db/embedded-postgres.ts";
import { migrate } from "@hostler/control-plane/db/migrate.ts";
import { maintainPartitions } from "@hostler/control-plane/db/partitions.ts";
import { openDriver } from "@hostler/control-plane/db/pool.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { wallTimeOf } from "./clock.ts";

/**
 * A real PostgreSQL in which time is what the simulation says. The functions that tell the time are found in the schema `sim`
 * before those of the system, by the defaults of the tables and by every statement of the product alike.
 *
 * One connection serves a whole world, and one server only one process: then the layout of the tables, and with it the order of
 * rows that no `order by` names, is the same whenever a seed is run.
 */
export interface SimulationDatabase {
  readonly sql: Sql;
  /** Sets the time of what is sent after it, and begins a transaction when asked to; it leaves together with that. */
  stamp(at: { readonly nowMs: number; readonly step: number }, more?: "begin"): void;
  /** Ends a transaction that has changed nothing, together with what is sent next: nobody need wait for that. */
  endReading(): void;
  /** Empties every table and starts every sequence anew. */
  reset(): Promise<void>;
  close(): Promise<void>;
}

const SETTINGS: Readonly<Record<string, string>> = {
  // Nothing of it has to survive.
  fsync: "off",
  synchronous_commit: "off",
  full_page_writes: "off",
  checkpoint_timeout: "'1h'",
  // Where it lies in memory, it is no more than that.
  max_wal_size: "'128MB'",
  // What runs in the background would change the order of rows at moments that no seed repeats.
  autovacuum: "off",
  // Plans that change with the number of executions would too.
  plan_cache_mode: "force_generic_plan",
  jit: "off",
  // Nobody reads what these write down.
  track_activities: "off",
  track_counts: "off",
  update_process_title: "off",
  compute_query_id: "off",
  max_parallel_workers_per_gather: "0",
  // A world has a handful of rows of each kind; the planner takes an empty table for ten pages of them.
  enable_hashjoin: "off",
  enable_mergejoin: "off",
  enable_bitmapscan: "off",
};

/** Tables of rooms that are not part of the world: emptying them is half of the work between two seeds. */
const UNUSED = [
  "api_keys",
  "audit_chain",
  "audit_checkpoints",
  "bootstrap_tokens",
  "event_dead_letters",
  "event_positions",
  "event_sequencer",
  "event_sinks",
  "idempotency_keys",
  "job_schedules",
  "jobs",
  "role_bindings",
  "principals",
  "telemetry_samples",
  "terminals",
  "trust_bundles",
];

/** Emptying a table makes new files: on a disk that is a tenth of all time. */
const MEMORY = "/dev/shm";

const TIME_FUNCTIONS = ["now", "clock_timestamp", "statement_timestamp", "transaction_timestamp"];

export async function openSimulationDatabase(): Promise<SimulationDatabase> {
  const folder = await mkdtemp(join(existsSync(MEMORY) ? MEMORY : tmpdir(), "hostler-simulation-"));
  await chmod(folder, 0o755);
  const server = await startEmbeddedPostgres({ stateDir: folder, clock: systemClock, onProgress: () => undefined });
  // None of the timeouts of the product's pool: they count real time, and a new connection would not have what this one has set.
  const sql = openDriver(server.url, {
    max: 1,
    idle_timeout: 0,
    max_lifetime: null,
    onnotice: () => undefined,
    // The driver draws a number when its connection ends, and no seed would give that again.
    backoff: () => 0,
  });
  const close = async (): Promise<void> => {
    await sql.end({ timeout: 1 });
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const tables = await prepare(sql);
    const truncate = `truncate ${tables.join(", ")} restart identity cascade; alter sequence fence_seq restart; alter sequence task_revision_seq restart; alter sequence event_seq restart`;
    let ending = "";
    return {
      sql,
      close,
      stamp: ({ nowMs, step }, more) => {
        const statements = `${ending}${timeStatement(nowMs, step)}${more === undefined ? "" : `; ${more}`}`;
        ending = "";
        void sql.unsafe(statements).catch(() => "The statement after it fails as well.");
      },
      endReading: () => void (ending = "commit; "),
      reset: async () => {
        await sql.unsafe(`${ending}select 1`);
        ending = "";
        await sql.unsafe(truncate);
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function timeStatement(nowMs: number, step: number): string {
  return `set sim.clock to '${wallTimeOf(nowMs).toISOString()} ${step}'`;
}

/** Resolves with the names of the tables. */
async function prepare(sql: Sql): Promise<string[]> {
  for (const [name, value] of Object.entries(SETTINGS)) await sql.unsafe(`alter system set ${name} = ${value}`);
  await sql.unsafe("select pg_reload_conf()");
  await sql.unsafe("create schema sim");
  for (const name of TIME_FUNCTIONS) {
    await sql.unsafe(`create function sim.${name}() returns timestamptz language sql stable
      as $$ select split_part(current_setting('sim.clock'), ' ', 1)::timestamptz $$`);
  }
  await sql.unsafe("set search_path = sim, pg_catalog, public");
  await sql.unsafe(timeStatement(0, 0));
  await migrate(sql);
  await keepOneDay(sql);
  await sql.unsafe(`drop table ${UNUSED.join(", ")} cascade`);
  await sql.unsafe(HISTORY);
  const guards = await sql<{ table: string; name: string }[]>`
    select tgrelid::regclass::text as "table", tgname as name from pg_trigger where tgname like '%no_truncate'
  `;
  // The next world begins with empty tables; within a world history stays append-only.
  for (const guard of guards) await sql.unsafe(`alter table ${guard.table} disable trigger ${guard.name}`);
  const tables = await sql<{ name: string }[]>`
    select relname as name
    from pg_class
    where relnamespace = 'sim'::regnamespace and relkind in ('r', 'p') and relname not in ('migrations', 'fence_epoch')
    order by relname
  `;
  return tables.map((table) => table.name);
}

/** A world begins at midnight and lasts less than a day; every other partition would only have to be emptied after each. */
async function keepOneDay(sql: Sql): Promise<void> {
  await maintainPartitions(sql, wallTimeOf(0), {});
  const today = wallTimeOf(0).toISOString().slice(0, 10).replaceAll("-", "");
  const others = await sql<{ name: string }[]>`
    select c.relname as name
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where c.relkind = 'r' and c.relname not like ${`%_${today}`}
  `;
  for (const { name } of others) await sql.unsafe(`drop table ${name}`);
}

/** Who held what and when, written by the database itself in the transaction of the change: what effects on hosts are judged by. */
const HISTORY = `
  create table lease_history (
    number bigint generated always as identity, step bigint not null, at timestamptz not null, task_id text not null, state text not null, fence bigint not null,
    lease_until timestamptz
  );
  create function note_task() returns trigger language plpgsql as $$
  begin
    if tg_op = 'DELETE' then
      insert into lease_history (step, at, task_id, state, fence, lease_until) values (split_part(current_setting('sim.clock'), ' ', 2)::bigint, now(), old.id, 'ended', old.fence, null);
    else
      insert into lease_history (step, at, task_id, state, fence, lease_until) values (split_part(current_setting('sim.clock'), ' ', 2)::bigint, now(), new.id, new.state, new.fence, new.lease_until);
    end if;
    return null;
  end $$;
  create trigger note_task after insert or update or delete on tasks for each row execute function note_task();
  create table slot_history (
    number bigint generated always as identity, step bigint not null, gpu_uuid text not null, state text not null, allocation_id text
  );
  create function note_slot() returns trigger language plpgsql as $$
  begin
    -- A part of a card that is nobody's has no row.
    if tg_op = 'DELETE' then
      insert into slot_history (step, gpu_uuid, state, allocation_id) values (split_part(current_setting('sim.clock'), ' ', 2)::bigint, old.gpu_uuid, 'available', null);
    else
      insert into slot_history (step, gpu_uuid, state, allocation_id) values (split_part(current_setting('sim.clock'), ' ', 2)::bigint, new.gpu_uuid, new.state, new.allocation_id);
    end if;
    return null;
  end $$;
  create trigger note_slot after insert or update or delete on gpu_slots for each row execute function note_slot();
`;
