import { openPool } from "@hostler/control-plane/db/pool.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { quantile, type Suite, type SuiteOptions, type SuiteOutcome } from "../support/suite.ts";
import { startSuitePlanes, type SuitePlanes } from "../support/suite-planes.ts";
import { checkOutcome } from "./dispatch/check-outcome.ts";
import type { Crowd, Span } from "./dispatch/crowd.ts";
import { FLEET, GANGS } from "./dispatch/dispatch.ts";
import { startDispatchLoad } from "./dispatch/load.ts";
import { startPeer } from "./dispatch/peers.ts";

const HELD_S = 180;
const BEFORE_S = 30;
const WARM_UP_S = 10;
const MAXIMUM_S = 10;
const SETTLE_S = 10;
const DRAIN_MS = 120_000;
/** Slices that are kept for longer would not be given back by a steady number a second within the time to settle. */
const KEPT_MS_MAX = 5000;

/** Where each keeps its work, for the sizes in the figures. */
const TABLES = {
  ours: "public.tasks",
  "graphile-worker": "graphile_worker._private_jobs",
  "pg-boss": "pgboss.job%",
} as const;

/**
 * One transaction with an old snapshot, of a forgotten session or a backup, keeps vacuum from every dead row of the database. A queue
 * that finds its work by walking over dead rows gets slower with every task. Each works at half of what it can, first without such
 * a snapshot, then with one; what counts is the last third of that time.
 */
export const heldXminSuite: Suite = {
  about: "how long tasks wait to be taken while somebody holds an old snapshot open, and the jobs of peers",
  run: async (options) => await measureHeld(options),
};

async function measureHeld({ runs, say }: SuiteOptions): Promise<SuiteOutcome> {
  const planes = await startSuitePlanes(2);
  const heldSeconds = runs ?? HELD_S;
  try {
    const load = await startDispatchLoad(planes, { ...FLEET, say });
    let ours: Readonly<Record<string, number>>;
    try {
      ours = await measureCrowd(planes, load, { table: TABLES.ours, itemsPerMade: 2, heldSeconds, say });
      await load.drain(DRAIN_MS);
    } finally {
      load.stop();
    }
    const wrong = await checkOutcome(planes.sql, load);
    say(`checked ${load.done} tasks: ${JSON.stringify(wrong)}`);
    const peers: Record<string, Readonly<Record<string, number>>> = {};
    for (const peer of ["graphile-worker", "pg-boss"] as const) {
      say(peer);
      const crowd = await startPeer({ peer, databaseUrl: planes.databaseUrl, say });
      try {
        peers[peer] = await measureCrowd(planes, crowd, { table: TABLES[peer], itemsPerMade: 1, heldSeconds, say });
      } finally {
        crowd.stop();
      }
    }
    return {
      figures: { ...ours, lost_or_doubled: Object.values(wrong).reduce((total, count) => total + count, 0) },
      targets: [
        { figure: "held_seconds", atLeast: HELD_S },
        { figure: "claim_p99_ratio", atMost: 2 },
        { figure: "lost_or_doubled", atMost: 0 },
      ],
      peers,
    };
  } finally {
    await planes.close();
  }
}

/** What is claimed is a task or a job: the time from its writing to its arrival where it is worked on. */
async function measureCrowd(
  planes: SuitePlanes,
  crowd: Crowd,
  options: {
    readonly table: string;
    /** Tasks that come of one thing that is made: a slice has two. */
    readonly itemsPerMade: number;
    readonly heldSeconds: number;
    say(line: string): void;
  },
): Promise<Readonly<Record<string, number>>> {
  crowd.setPace(GANGS);
  await crowd.span(WARM_UP_S);
  const maximum = rateOf(await crowd.span(MAXIMUM_S));
  const perSecond = maximum / 2 / options.itemsPerMade;
  // As many slices stay alive as at the maximum, so that they are on as many hosts.
  crowd.setPace({ ...GANGS, atOnce: 0, perSecond, keptMs: Math.min(KEPT_MS_MAX, (GANGS.atOnce / perSecond) * 1000) });
  await crowd.span(SETTLE_S);
  const before = await crowd.span(BEFORE_S);
  options.say(
    `${Math.round(rateOf(before))} a second, half of the maximum; p99 ${p99(before)} ms; the snapshot is taken`,
  );
  const snapshot = await holdSnapshot(planes.databaseUrl);
  await crowd.span((options.heldSeconds * 2) / 3);
  const held = await crowd.span(options.heldSeconds / 3);
  const table = await tableSize(planes.sql, options.table);
  await snapshot.release();
  options.say(`${Math.round(rateOf(held))} a second, p99 ${p99(held)} ms at the end; ${JSON.stringify(table)}`);
  return {
    held_seconds: options.heldSeconds,
    per_second_before: Math.round(rateOf(before)),
    per_second_held: Math.round(rateOf(held)),
    claim_p50_before_ms: quantile(before.delaysMs, 0.5),
    claim_p50_held_ms: quantile(held.delaysMs, 0.5),
    claim_p99_before_ms: p99(before),
    claim_p99_held_ms: p99(held),
    claim_p99_ratio: Math.round((p99(held) / p99(before)) * 100) / 100,
    ...table,
  };
}

/** A session as it is without the limits that our pool sets for its own. */
async function holdSnapshot(url: string): Promise<{ release(): Promise<void> }> {
  const foreign = openPool({
    url,
    applicationName: "forgotten session",
    connectionsMax: 1,
    silentMsMax: Number.POSITIVE_INFINITY,
  });
  const holding = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  const transaction = foreign.begin("isolation level repeatable read", async (tx) => {
    await tx`set local idle_in_transaction_session_timeout = 0`;
    await tx`select count(*) from tasks`;
    held.resolve();
    await holding.promise;
  });
  await Promise.race([held.promise, transaction]);
  return {
    release: async () => {
      holding.resolve();
      await transaction;
      await foreign.end();
    },
  };
}

async function tableSize(sql: Sql, table: string): Promise<{ table_kib: number; table_dead_rows: number }> {
  // Its statistics come with a delay of up to a second.
  await systemClock.sleep(1500, new AbortController().signal);
  const [row] = await sql<{ kib: number; dead: number }[]>`
    select coalesce(sum(pg_total_relation_size(relid)) / 1024, 0)::int as kib, coalesce(sum(n_dead_tup), 0)::int as dead
    from pg_stat_user_tables
    where schemaname || '.' || relname like ${table}
  `;
  return { table_kib: row?.kib ?? 0, table_dead_rows: row?.dead ?? 0 };
}

function rateOf(span: Span): number {
  return span.done / span.seconds;
}

function p99(span: Span): number {
  return quantile(span.delaysMs, 0.99);
}
