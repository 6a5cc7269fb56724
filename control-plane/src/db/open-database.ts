import { randomBytes } from "node:crypto";
import type { Clock } from "@hostler/shared/clock.ts";
import type { Logger } from "pino";
import type { Config } from "../config.ts";
import type { Deps } from "../deps.ts";
import { startEmbeddedPostgres } from "./embedded-postgres.ts";
import { migrate } from "./migrate.ts";
import { openPool, openServicePool, type PoolOptions } from "./pool.ts";
import type { Sql } from "./sql.ts";
import { openWakeBus } from "./wake-bus.ts";

interface DatabaseOptions {
  readonly config: Pick<Config, "databaseUrl" | "stateDir" | "leaseTtlMs">;
  readonly log: Logger;
  onProgress(line: string): void;
}

export interface Database {
  readonly deps: Deps;
  /** For what hosts and tenants write all the time. */
  readonly busySql: Sql;
  /** For what lies between a wake-up and its answer. */
  readonly wakeSql: Sql;
}

/** All pools of four replicas and their listeners fit into the hundred that PostgreSQL takes. */
const CONNECTIONS = 8;
const BUSY_CONNECTIONS = 12;
/** Two at most are in use at a time, a claim and a lookup, and whoever is used all the time has its plans ready. */
const WAKE_CONNECTIONS = 2;

/**
 * Opens the pools, migrates and listens for hints. What is opened is closed by `closers`, also when this rejects.
 */
export async function openDatabase(
  options: DatabaseOptions,
  clock: Clock,
  closers: (() => Promise<void>)[],
): Promise<Database> {
  const { config, log } = options;
  const url = config.databaseUrl ?? (await startOwn(options, clock, closers));
  const open = async (pool: Omit<PoolOptions, "url">): Promise<Sql> => {
    const opened = await openServicePool({ url, ...pool });
    closers.push(async () => await opened.end({ timeout: 5 }));
    return opened;
  };
  const sql = await open({ applicationName: "hostler control plane", connectionsMax: CONNECTIONS });
  const busySql = await open({ applicationName: "hostler dispatch", connectionsMax: BUSY_CONNECTIONS, plans: "once" });
  const wakeSql = await open({
    applicationName: "hostler wake-ups",
    connectionsMax: WAKE_CONNECTIONS,
    plans: "once by indexes",
  });
  // A migration may take as long as the table is large.
  const migrations = openPool({
    url,
    applicationName: "hostler migrations",
    connectionsMax: 1,
    silentMsMax: Number.POSITIVE_INFINITY,
  });
  closers.push(async () => await migrations.end({ timeout: 5 }));
  const applied = await migrate(migrations);
  if (applied.length > 0) options.onProgress(`migrated the database: ${applied.join(", ")}`);
  const replicaId = randomBytes(8).toString("hex");
  const wake = openWakeBus({ url, replicaId, clock, log });
  closers.push(wake.close);
  return { deps: { sql, clock, log, wake, replicaId, leaseTtlMs: config.leaseTtlMs }, busySql, wakeSql };
}

async function startOwn(options: DatabaseOptions, clock: Clock, closers: (() => Promise<void>)[]): Promise<string> {
  const { config, onProgress } = options;
  const server = await startEmbeddedPostgres({ stateDir: config.stateDir, clock, onProgress });
  closers.push(server.stop);
  return server.url;
}
