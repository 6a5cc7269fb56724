import { randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import type { Clock } from "@hostler/shared/clock.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import type { Logger } from "pino";
import { allocationRoutes } from "./allocations/routes.ts";
import type { Config } from "./config.ts";
import { startEmbeddedPostgres } from "./db/embedded-postgres.ts";
import { migrate } from "./db/migrate.ts";
import { openPool } from "./db/pool.ts";
import { openWakeBus } from "./db/wake-bus.ts";
import type { Deps } from "./deps.ts";
import { consoleFiles } from "./http/console-files.ts";
import { healthRoutes, type LoopStatuses } from "./http/health-routes.ts";
import { openListener, type Listener } from "./http/listeners.ts";
import { enrolApp, nodeApp } from "./http/node-apps.ts";
import { publicApp } from "./http/public-app.ts";
import { ensureFirstOperator } from "./identity/create-api-key.ts";
import { identityRoutes } from "./identity/routes.ts";
import { makeImageFiles } from "./images/image-files.ts";
import { imageNodeRoutes } from "./images/node-routes.ts";
import { imageRoutes } from "./images/routes.ts";
import { runHousekeeping } from "./loops/housekeeping.ts";
import { makeRequestCounts } from "./metrics/request-counts.ts";
import { metricsRoutes } from "./metrics/routes.ts";
import { authenticateNode } from "./nodes/authenticate-node.ts";
import { enrolRoutes } from "./nodes/enrol-routes.ts";
import { makeLiveSockets } from "./nodes/live-sockets.ts";
import { startLiveness } from "./nodes/liveness.ts";
import { nodeNodeRoutes } from "./nodes/node-routes.ts";
import { nodeRoutes } from "./nodes/routes.ts";
import { operationRoutes } from "./operations/routes.ts";
import { openPki, type Pki } from "./pki/open-pki.ts";
import { enrolTlsOptions, nodeTlsOptions } from "./pki/tls-options.ts";
import { runTaskLoop } from "./tasks/loops.ts";
import { taskNodeRoutes } from "./tasks/node-routes.ts";
import { startLiveTerminals } from "./terminals/live-terminals.ts";
import { terminalNodeRoutes } from "./terminals/node-routes.ts";
import { terminalRoutes } from "./terminals/routes.ts";
import { telemetryNodeRoutes } from "./telemetry/node-routes.ts";
import { telemetryRoutes } from "./telemetry/routes.ts";

export interface RunningControlPlane {
  readonly publicUrl: string;
  readonly enrolUrl: string;
  readonly nodeUrl: string;
  /** The key of the first operator, only at the first start on a database. */
  readonly firstOperatorKey: string | null;
  close(): Promise<void>;
}

export interface StartOptions {
  readonly config: Config;
  readonly log: Logger;
  readonly clock?: Clock;
  onProgress(line: string): void;
}

/**
 * The composition root: the one place that builds adapters. In order: database, migrations, keys, features, listeners, loops.
 * What was opened is closed in the reverse order, also when a later step fails.
 */
export async function startControlPlane(options: StartOptions): Promise<RunningControlPlane> {
  const closers: (() => Promise<void>)[] = [];
  try {
    return await start(options, closers);
  } catch (error) {
    await closeAll(closers);
    throw error;
  }
}

async function start(options: StartOptions, closers: (() => Promise<void>)[]): Promise<RunningControlPlane> {
  const { config, log } = options;
  const clock = options.clock ?? systemClock;
  await mkdir(config.stateDir, { recursive: true, mode: 0o755 });
  const deps = await openDatabase(options, clock, closers);
  const pki = await openPki({ stateDir: config.stateDir, trustDomain: config.trustDomain, passphrase: config.caPassphrase, clock });
  const firstOperatorKey = await ensureFirstOperator(deps);

  const closing = new AbortController();
  const statuses: LoopStatuses = new Map();
  const liveness = startLiveness(deps);
  closers.push(liveness.close);
  const liveTerminals = startLiveTerminals(deps);
  const listeners: Partial<Record<"public" | "enrol" | "node", Listener>> = {};
  const portOf = (name: "public" | "enrol" | "node"): number => listeners[name]?.port ?? 0;
  const hostFor = (requestHost: string): string => config.advertisedHost ?? (requestHost.replace(/:\d+$/, "") || "127.0.0.1");
  const publicUrl = (): string => config.publicUrl ?? `http://${config.publicListen.host}:${portOf("public")}`;
  const liveSockets = makeLiveSockets();
  const enrolment = { ...deps, pki, liveSockets, nodeListenerFor: (host: string) => `${hostFor(host)}:${portOf("node")}`, enrolListenerFor: (host: string) => `${hostFor(host)}:${portOf("enrol")}` };
  const imageFiles = makeImageFiles(config.stateDir);
  const requestCounts = makeRequestCounts();

  const app = publicApp({
    deps,
    publicUrl: config.publicUrl ?? "/",
    onAnswer: requestCounts.count,
    consoleFiles: await consoleFiles(),
    features: [
      healthRoutes({ ...deps, statuses }),
      metricsRoutes({ ...deps, isPublic: config.metricsPublic, requestCounts }),
      identityRoutes(deps),
      nodeRoutes(enrolment),
      imageRoutes({ ...deps, imageFiles }),
      allocationRoutes(deps),
      operationRoutes(deps),
      terminalRoutes({ ...deps, liveTerminals, publicOrigin: () => new URL(publicUrl()).origin }),
      telemetryRoutes(deps),
    ],
  });
  const forNodes = nodeApp({
    deps,
    authenticateNode: authenticateNode({ ...deps, authority: pki.authority, liveSockets }),
    features: [
      nodeNodeRoutes(enrolment),
      taskNodeRoutes({ ...deps, taskSigner: pki.taskSigner, liveness, closing: closing.signal }),
      imageNodeRoutes({ imageFiles }),
      telemetryNodeRoutes(deps),
      terminalNodeRoutes({ ...deps, liveTerminals }),
    ],
  });
  const forStrangers = enrolApp({ deps, features: [enrolRoutes(enrolment)] });

  const open = async (name: "public" | "enrol" | "node", wanted: Omit<Parameters<typeof openListener>[0], "name" | "clock">): Promise<void> => {
    const listener = await openListener({ ...wanted, name, clock });
    listeners[name] = listener;
    closers.push(listener.close);
  };
  await open("public", { address: config.publicListen, variable: "HOSTLER_PUBLIC_LISTEN", fetch: app.fetch, tls: null, hasWebSockets: true });
  await open("enrol", { address: config.enrolListen, variable: "HOSTLER_ENROL_LISTEN", fetch: forStrangers.fetch, tls: enrolTlsOptions(pki), hasWebSockets: false });
  await open("node", { address: config.nodeListen, variable: "HOSTLER_NODE_LISTEN", fetch: forNodes.fetch, tls: nodeTlsOptions(pki), hasWebSockets: true });

  startLoops(deps, { closing, statuses, closers, liveTerminals, listeners, pki });
  log.info({ publicUrl: publicUrl(), enrolPort: portOf("enrol"), nodePort: portOf("node") }, "control plane ready");
  return {
    publicUrl: publicUrl(),
    enrolUrl: `https://${hostFor(config.enrolListen.host === "0.0.0.0" ? "" : config.enrolListen.host)}:${portOf("enrol")}`,
    nodeUrl: `https://${hostFor(config.nodeListen.host === "0.0.0.0" ? "" : config.nodeListen.host)}:${portOf("node")}`,
    firstOperatorKey,
    close: async () => await closeAll(closers),
  };
}

async function openDatabase(options: StartOptions, clock: Clock, closers: (() => Promise<void>)[]): Promise<Deps> {
  const { config, log } = options;
  let url = config.databaseUrl;
  if (url === null) {
    const server = await startEmbeddedPostgres({ stateDir: config.stateDir, clock, onProgress: options.onProgress });
    closers.push(server.stop);
    url = server.url;
  }
  const sql = openPool({ url, applicationName: "hostler control plane" });
  closers.push(async () => await sql.end({ timeout: 5 }));
  const applied = await migrate(sql);
  if (applied.length > 0) options.onProgress(`migrated the database: ${applied.join(", ")}`);
  const replicaId = randomBytes(8).toString("hex");
  const wake = openWakeBus({ url, replicaId, clock, log });
  closers.push(wake.close);
  return { sql, clock, log, wake, replicaId };
}

function startLoops(
  deps: Deps,
  parts: {
    readonly closing: AbortController;
    readonly statuses: LoopStatuses;
    readonly closers: (() => Promise<void>)[];
    readonly liveTerminals: { close(): Promise<void> };
    readonly listeners: Partial<Record<"enrol" | "node", Listener>>;
    readonly pki: Pki;
  },
): void {
  const { closing, statuses } = parts;
  const { signal } = closing;
  const loops = [
    runTaskLoop(deps, { signal, onStatus: (status) => void statuses.set("tasks", status) }),
    runHousekeeping(deps, { signal, onStatus: (status) => void statuses.set("housekeeping", status), renewServerCertificates: () => renewServerCertificates(parts) }),
  ];
  // Closed first: waiting polls are answered and terminals told before the listeners go.
  parts.closers.push(async () => {
    closing.abort(new Error("the control plane is stopping"));
    await parts.liveTerminals.close();
    await Promise.all(loops);
  });
}

/** New certificates for our own listeners; open connections keep theirs. */
function renewServerCertificates(parts: { readonly listeners: Partial<Record<"enrol" | "node", Listener>>; readonly pki: Pki }): void {
  const { enrol, node } = parts.listeners;
  if (enrol !== undefined && "setSecureContext" in enrol.server) enrol.server.setSecureContext(enrolTlsOptions(parts.pki));
  if (node !== undefined && "setSecureContext" in node.server) node.server.setSecureContext(nodeTlsOptions(parts.pki));
}

/** Teardown does everything and then reports all failures. */
async function closeAll(closers: (() => Promise<void>)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const close of closers.splice(0).toReversed()) await close().catch((error: unknown) => failures.push(error));
  if (failures.length > 0) throw new AggregateError(failures, "the control plane did not close cleanly");
}
