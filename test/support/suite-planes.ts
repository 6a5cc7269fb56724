import { chmod, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ApiClient } from "@hostler/cli/api-client.ts";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "@hostler/control-plane/db/embedded-postgres.ts";
import { openPool } from "@hostler/control-plane/db/pool.ts";
import type { Sql } from "@hostler/control-plane/db/sql.ts";
import { bootstrapTokenCreatedSchema } from "@hostler/shared/api/nodes.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import {
  clientFor,
  prepareTenancy,
  startControlPlaneProgram,
  type LocalControlPlane,
} from "../../deploy/demo/local-cloud.ts";

/** Replicas of the control plane as real processes on one PostgreSQL that outlives them. */
export interface SuitePlanes {
  readonly folder: string;
  readonly stateDir: string;
  readonly sql: Sql;
  readonly projectId: string;
  /** Of an operator who is a member of the project. */
  readonly apiKey: string;
  readonly databaseUrl: string;
  readonly replicas: readonly SuiteReplica[];
  readonly database: SuiteDatabase;
  makeToken(): Promise<string>;
  close(): Promise<void>;
}

/** PostgreSQL, which is away from `stop` to `start` and then where it was. */
export interface SuiteDatabase {
  readonly url: string;
  stop(): Promise<void>;
  start(): Promise<void>;
}

export interface SuiteReplica {
  readonly publicUrl: string;
  readonly operator: ApiClient;
  /** Host and port of the enrol listener. */
  readonly server: string;
  /** Host and port of the node listener. */
  readonly nodeListener: string;
  pid(): number;
  kill(): Promise<void>;
  /** On the same ports as before. */
  restart(): Promise<void>;
}

export interface SuitePlanesOptions {
  readonly hasCommitTimes?: boolean;
  /** Counts what each statement takes, in the view `pg_stat_statements`. */
  readonly hasStatementCounts?: boolean;
  /** For the replicas. */
  readonly env?: Readonly<Record<string, string>>;
  /** A database that the suite runs itself, closed with the planes; without it an embedded one. */
  readonly database?: Pick<EmbeddedPostgres, "url" | "stop">;
  /** What one replica has that others have not, such as a network namespace. */
  placeOf?(index: number): {
    readonly env: Readonly<Record<string, string>>;
    readonly prefix: readonly string[];
  };
}

export async function startSuitePlanes(count: number, options: SuitePlanesOptions = {}): Promise<SuitePlanes> {
  const folder = await mkdtemp(join(tmpdir(), "hostler-suite-"));
  await chmod(folder, 0o755);
  const startDatabase = async (port?: number): Promise<Pick<EmbeddedPostgres, "url" | "stop">> =>
    options.database ??
    (await startEmbeddedPostgres({
      stateDir: join(folder, "database"),
      clock: systemClock,
      onProgress: () => undefined,
      ...(port === undefined ? {} : { port }),
    }));
  let database = await startDatabase();
  if (options.hasCommitTimes === true || options.hasStatementCounts === true) {
    const admin = openPool({ url: database.url, applicationName: "suite", connectionsMax: 1 });
    if (options.hasCommitTimes === true) await admin`alter system set track_commit_timestamp = on`;
    if (options.hasStatementCounts === true)
      await admin`alter system set shared_preload_libraries = 'pg_stat_statements'`;
    await admin.end();
    await database.stop();
    database = await startDatabase();
  }
  const stateDir = join(folder, "control-plane");
  const replicas: (SuiteReplica & { stop(): Promise<void> })[] = [];
  let tenancy: { readonly projectId: string; readonly apiKey: string } | null = null;
  for (let index = 0; index < count; index += 1) {
    const place = options.placeOf?.(index);
    const start = async (env: Readonly<Record<string, string>> = {}): Promise<LocalControlPlane> =>
      await startControlPlaneProgram({
        stateDir,
        logPath: join(folder, `control-plane-${index}.log`),
        env: { DATABASE_URL: database.url, HOSTLER_LOG_LEVEL: "warn", ...options.env, ...place?.env, ...env },
        ...(place === undefined ? {} : { prefix: place.prefix }),
      });
    let plane = await start();
    const { publicUrl, enrolUrl, nodeUrl } = plane.ready;
    tenancy ??= await prepareTenancy(clientFor(publicUrl, plane.ready.firstOperatorKey ?? ""));
    const listen = {
      HOSTLER_PUBLIC_LISTEN: new URL(publicUrl).host,
      HOSTLER_ENROL_LISTEN: new URL(enrolUrl).host,
      HOSTLER_NODE_LISTEN: new URL(nodeUrl).host,
    };
    replicas.push({
      publicUrl,
      operator: clientFor(publicUrl, tenancy.apiKey),
      server: new URL(enrolUrl).host,
      nodeListener: new URL(nodeUrl).host,
      pid: () => plane.program.pid,
      kill: async () => {
        plane.program.kill("SIGKILL");
        await plane.program.exited;
      },
      restart: async () => void (plane = await start(listen)),
      stop: async () => await plane.program.stop(),
    });
  }
  if (tenancy === null) throw new Error("at least one replica");
  const sql = openPool({ url: database.url, applicationName: "suite", connectionsMax: 4 });
  return {
    folder,
    stateDir,
    sql,
    ...tenancy,
    databaseUrl: database.url,
    replicas,
    database: {
      url: database.url,
      stop: async () => await database.stop(),
      start: async () => void (database = await startDatabase(Number(new URL(database.url).port))),
    },
    makeToken: async () => {
      const [first] = replicas;
      if (first === undefined) throw new Error("at least one replica");
      return (await first.operator.post("/api/ops/v1/bootstrap-tokens", {}, bootstrapTokenCreatedSchema)).token;
    },
    close: async () => {
      await sql.end({ timeout: 2 });
      for (const replica of replicas.toReversed()) await replica.stop();
      await database.stop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
