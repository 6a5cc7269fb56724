import { AppError } from "@hostler/shared/errors.ts";
import { connect, type Socket } from "node:net";
import postgres from "postgres";
import type { Sql } from "./sql.ts";

export interface PoolOptions {
  readonly url: string;
  readonly applicationName: string;
  readonly connectionsMax?: number;
  /** Whether the server knows `transaction_timeout`; one that does not would refuse the connection. */
  readonly hasTransactionTimeout?: boolean;
  /** `each`, unless given. */
  readonly plans?: keyof typeof PLANS;
  /** A connection on which nothing came for this long is dead; more than any statement may take. Infinite where they take as they like. */
  readonly silentMsMax?: number;
}

const CONNECTIONS_MAX = 20;
const STATEMENT_MS_MAX = 30_000;
/** Milliseconds, for every session of ours. */
const TIMEOUTS = { statement_timeout: STATEMENT_MS_MAX, idle_in_transaction_session_timeout: 10_000 } as const;
const TRANSACTION_TIMEOUT_MS = 60_000;
/** What is worked on is in memory or on flash. Taken for a disk with a head, as PostgreSQL does, whole tables are read for a few rows. */
const PLANNING = { random_page_cost: 1.1 } as const;

/**
 * How statements are planned. `each`: for its values, where PostgreSQL thinks that they matter. `once`: for all values, as long as
 * the tables have about the same size: for statements that come all the time, whose planning takes as long as they do. `once by indexes`:
 * also for the first minute of a table that was empty, where nothing may be slow.
 */
const PLANS = {
  each: {},
  once: { plan_cache_mode: "force_generic_plan" },
  "once by indexes": { plan_cache_mode: "force_generic_plan", enable_seqscan: "off" },
} as const;

/** The settings of a session that no pool made, by a statement that works on every version. */
export const SESSION_TIMEOUTS = `select set_config(name, value, false)
  from (values ('statement_timeout', '${TIMEOUTS.statement_timeout}'),
    ('idle_in_transaction_session_timeout', '${TIMEOUTS.idle_in_transaction_session_timeout}'),
    ('transaction_timeout', '${TRANSACTION_TIMEOUT_MS}')) as wanted (name, value)
  join pg_settings using (name)`;

/** Asks the server first what it knows: PostgreSQL has `transaction_timeout` from 17 on. */
export async function openServicePool(options: PoolOptions): Promise<Sql> {
  const probe = openDriver(options.url, { max: 1, connect_timeout: 5, onnotice: () => undefined });
  try {
    const known = await probe`select from pg_settings where name = 'transaction_timeout'`;
    return openPool({ ...options, hasTransactionTimeout: known.length > 0 });
  } finally {
    await probe.end({ timeout: 5 });
  }
}

/** A connection that was lost is tried again after this long: what waits for it is late by no more once PostgreSQL is back. */
const RECONNECT_S = { least: 0.1, jitter: 0.2 } as const;

/** TCP does not tell of a peer that something on the way forgot: its statements would wait for ever. */
const SILENT_MS_MAX = STATEMENT_MS_MAX + 5000;
/** Before they count as dead, connections that nobody uses are closed. */
const IDLE_S = 25;

/**
 * The pool of connections. Statements end after 30 s, idle transactions after 10 s and, where the server can, every transaction
 * after a minute, so that a forgotten one cannot hold back vacuum for the whole fleet. Numbers of 64 bits come as strings.
 */
export function openPool(options: PoolOptions): Sql {
  const silentMsMax = options.silentMsMax ?? SILENT_MS_MAX;
  const settings = {
    ...(Number.isFinite(silentMsMax) ? { socket: (target: Target) => openSocket(target, silentMsMax) } : {}),
    max: options.connectionsMax ?? CONNECTIONS_MAX,
    connect_timeout: 5,
    // In seconds. The driver's own waits up to 20 s, and counts every connection of the pool as another failure.
    backoff: () => RECONNECT_S.least + RECONNECT_S.jitter * Math.random(),
    idle_timeout: IDLE_S,
    max_lifetime: 3600,
    onnotice: () => undefined,
    connection: {
      application_name: options.applicationName,
      ...TIMEOUTS,
      ...PLANNING,
      ...PLANS[options.plans ?? "each"],
      ...(options.hasTransactionTimeout === true ? { transaction_timeout: TRANSACTION_TIMEOUT_MS } : {}),
    },
  };
  return openDriver(options.url, settings);
}

/** The driver, for a URL that may name a folder with a socket, as libpq has it: `?host=/folder`. */
export function openDriver(url: string, settings: Parameters<typeof postgres>[1]): Sql {
  const target = new URL(url);
  const folder = target.searchParams.get("host");
  if (folder === null || !folder.startsWith("/")) return postgres(url, settings);
  target.searchParams.delete("host");
  return postgres(target.href, { ...settings, path: `${folder}/.s.PGSQL.${target.port || "5432"}` });
}

interface Target {
  readonly host: readonly string[];
  readonly port: readonly number[];
  readonly path: string | false | undefined;
}

/** The driver's own socket, but for its end when it is silent. Not connected yet: the driver counts that time too. */
function openSocket({ host, port, path }: Target, silentMsMax: number): Socket {
  const at = Math.floor(Math.random() * host.length);
  const place = { host: host[at] ?? "localhost", port: port[at] ?? 5432 };
  const socket = typeof path === "string" ? connect(path) : connect(place);
  socket.setTimeout(silentMsMax, () => {
    socket.destroy(Object.assign(new Error(`PostgreSQL was silent for ${silentMsMax} ms`), { code: "ETIMEDOUT" }));
  });
  // The driver reads the name that TLS compares from here.
  return Object.assign(socket, place);
}

const CONNECTION_CODES: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "EPIPE",
  "ENOENT",
  "ETIMEDOUT",
  "CONNECTION_CLOSED",
  "CONNECTION_ENDED",
  "CONNECTION_DESTROYED",
  "CONNECT_TIMEOUT",
]);

/** SQLSTATE classes: 08 connection, 57P server shutting down or starting, 53 out of resources. */
const CONNECTION_STATES = /^(?:08|57P|53)/;

/** Whether the error says that PostgreSQL cannot be reached now; the statement may be tried again later. */
export function isDatabaseAway(error: unknown): boolean {
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") return false;
  return CONNECTION_CODES.has(error.code) || CONNECTION_STATES.test(error.code);
}

/** Translates a lost database into `service_unavailable`; everything else stays what it is. The edges call it once. */
export function translateDatabaseError(error: unknown): unknown {
  return isDatabaseAway(error)
    ? new AppError("service_unavailable", { detail: "The database cannot be reached.", cause: error })
    : error;
}

/** Whether a unique constraint of that name refused the row. */
export function isUniqueViolation(error: unknown, constraint: string): boolean {
  return error instanceof postgres.PostgresError && error.code === "23505" && error.constraint_name === constraint;
}
