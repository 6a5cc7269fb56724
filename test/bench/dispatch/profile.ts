import { mkdtemp, readdir, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import type { Suite, SuiteOptions, SuiteOutcome } from "../../support/suite.ts";
import { startSuitePlanes } from "../../support/suite-planes.ts";
import { FLEET, GANGS } from "./dispatch.ts";
import { startDispatchLoad } from "./load.ts";
import { measureLoad } from "./measure-load.ts";
import { summarizeCpuProfile } from "./summarize-cpu-profile.ts";

const SECONDS = 20;
const WARM_UP_S = 10;
const LOOK_EVERY_MS = 50;
const STATEMENTS_SHOWN = 80;
const WAITS_SHOWN = 40;

/** Costs a tenth of the throughput itself. The tables are in files that it names at the end. */
export const dispatchProfileSuite: Suite = {
  about: "where the time of the dispatch benchmark goes: statements, waits, and processor profiles of the replicas",
  run: async (options) => await profileDispatch(options),
};

async function profileDispatch({ runs, say }: SuiteOptions): Promise<SuiteOutcome> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-profile-"));
  const planes = await startSuitePlanes(2, {
    hasStatementCounts: true,
    env: { NODE_OPTIONS: `--cpu-prof --cpu-prof-dir=${folder}` },
  });
  let figures: Record<string, number> = {};
  try {
    await planes.sql`create extension if not exists pg_stat_statements`;
    const load = await startDispatchLoad(planes, { ...FLEET, say });
    try {
      load.setPace(GANGS);
      await load.span(WARM_UP_S);
      await planes.sql`select pg_stat_statements_reset()`;
      const before = load.done;
      const over = new AbortController();
      const waits = sampleWaits(planes.sql, over.signal);
      figures = await measureLoad(planes, load, runs ?? SECONDS);
      over.abort();
      await writeFile(join(folder, "statements.txt"), await readStatements(planes.sql, load.done - before));
      await writeFile(join(folder, "waits.txt"), await waits);
    } finally {
      load.stop();
    }
  } finally {
    await planes.close();
  }
  // The replicas wrote them when they ended.
  for (const name of await readdir(folder))
    if (name.endsWith(".cpuprofile"))
      await writeFile(join(folder, `${name}.txt`), summarizeCpuProfile(await readFile(join(folder, name), "utf8")));
  say(`the tables are in ${folder}`);
  return { figures, targets: [] };
}

/** What the backends were doing, seen many times. */
async function sampleWaits(sql: Sql, signal: AbortSignal): Promise<string> {
  const seen = new Map<string, number>();
  while (!signal.aborted) {
    const rows = await sql<{ what: string; query: string }[]>`
      select state || ' ' || coalesce(wait_event_type || '/' || wait_event, 'running') as what,
        left(regexp_replace(query, '[[:space:]]+', ' ', 'g'), 80) as query
      from pg_stat_activity
      where backend_type = 'client backend' and pid <> pg_backend_pid() and state <> 'idle'
    `;
    for (const { what, query } of rows)
      for (const key of [`all: ${what}`, `${what} | ${query}`]) seen.set(key, (seen.get(key) ?? 0) + 1);
    await systemClock.sleep(LOOK_EVERY_MS, signal).catch(() => "over");
  }
  const sorted = [...seen].toSorted(([, a], [, b]) => b - a).slice(0, WAITS_SHOWN);
  return sorted.map(([what, count]) => `${String(count).padStart(6)}  ${what}\n`).join("");
}

async function readStatements(sql: Sql, tasks: number): Promise<string> {
  const rows = await sql<{ calls: number; ms: number; rows: number; wal: number; query: string }[]>`
    select calls::float8 as calls, total_exec_time as ms, rows::float8 as rows, wal_bytes::float8 as wal,
      regexp_replace(query, '[[:space:]]+', ' ', 'g') as query
    from pg_stat_statements
    order by total_exec_time desc
    limit ${STATEMENTS_SHOWN}
  `;
  const each = (value: number): string => (value / tasks).toFixed(3).padStart(9);
  const sum = (of: "calls" | "ms" | "wal"): string => each(rows.reduce((total, row) => total + row[of], 0));
  const lines = rows.map((row) =>
    [
      each(row.calls),
      each(row.ms),
      (row.ms / row.calls).toFixed(3).padStart(8),
      each(row.rows),
      each(row.wal),
      row.query.slice(0, 160),
    ].join(" "),
  );
  return [
    `${tasks} tasks; each: ${sum("calls")} calls, ${sum("ms")} ms, ${sum("wal")} bytes of log`,
    "calls/task   ms/task  ms/call rows/task  log/task",
    ...lines,
    "",
  ].join("\n");
}
