import { randomBytes } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { Clock } from "@hostler/shared/clock.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import type { Hono } from "hono";
import type { Logger } from "pino";
import { makeReleases } from "./allocations/release-allocation.ts";
import { allocationRoutes } from "./allocations/routes.ts";
import { openAuditSigner, type AuditSigner } from "./audit/audit-signer.ts";
import { auditRoutes } from "./audit/routes.ts";
import { runAuditSealer } from "./audit/run-audit-sealer.ts";
import type { Config } from "./config.ts";
import { openDatabase, type Database } from "./db/open-database.ts";
import { watchOutages } from "./db/outages.ts";
import { keepEvents, maintainPartitions } from "./db/partitions.ts";
import type { Deps } from "./deps.ts";
import { openEvents, type Events } from "./events/open-events.ts";
import { consoleFiles } from "./http/console-files.ts";
import { makeAddresses, type Addresses, type ListenerName } from "./http/addresses.ts";
import { healthRoutes, type LoopStatuses } from "./http/health-routes.ts";
import { openListener } from "./http/listeners.ts";
import { enrolApp, nodeApp } from "./http/node-apps.ts";
import { publicApp } from "./http/public-app.ts";
import { ensureFirstOperator } from "./identity/create-api-key.ts";
import { identityRoutes } from "./identity/routes.ts";
import { makeImageFiles } from "./images/image-files.ts";
import { imageNodeRoutes } from "./images/node-routes.ts";
import { imageRoutes } from "./images/routes.ts";
import { incidentRoutes } from "./incidents/routes.ts";
import { maintenanceJobs } from "./jobs/maintenance-jobs.ts";
import { jobRoutes } from "./jobs/routes.ts";
import { runJobs } from "./jobs/run-jobs.ts";
import { renewOwnCertificates } from "./loops/renew-own-certificates.ts";
import { watchSnapshots } from "./loops/watch-snapshots.ts";
import { makeRequestCounts } from "./metrics/request-counts.ts";
import { metricsRoutes } from "./metrics/routes.ts";
import { authenticateNode } from "./nodes/authenticate-node.ts";
import { enrolRoutes } from "./nodes/enrol-routes.ts";
import { startLiveSockets, type RunningLiveSockets } from "./nodes/live-sockets.ts";
import { startLiveness, type Liveness } from "./nodes/liveness.ts";
import { nodeNodeRoutes } from "./nodes/node-routes.ts";
import { runNodeSweeper } from "./nodes/run-node-sweeper.ts";
import { makeRefusals } from "./nodes/refusals.ts";
import { nodeRoutes } from "./nodes/routes.ts";
import { makeSessionTokens, type SessionTokens } from "./nodes/session-token.ts";
import { operationRoutes } from "./operations/routes.ts";
import { readOrMakeFile } from "./pki/key-files.ts";
import { openPki, type Pki } from "./pki/open-pki.ts";
import { followRotations } from "./pki/follow-rotations.ts";
import { pkiRoutes } from "./pki/routes.ts";
import { enrolTlsOptions, nodeTlsOptions } from "./pki/tls-options.ts";
import { makeTrustStore } from "./pki/trust-store.ts";
import { reconciliationNodeRoutes } from "./reconciliation/node-routes.ts";
import { reconciliationRoutes } from "./reconciliation/routes.ts";
import { startSigner } from "./signer/start-signer.ts";
import { makeDispatch } from "./tasks/dispatch.ts";
import { makeHandOver } from "./tasks/hand-over.ts";
import { runTaskLoop } from "./tasks/loops.ts";
import { scanWaiting } from "./tasks/scan-waiting.ts";
import { receiptRoutes } from "./tasks/receipt-routes.ts";
import { taskRoutes } from "./tasks/routes.ts";
import { taskNodeRoutes } from "./tasks/node-routes.ts";
import { startLiveTerminals, type LiveTerminals } from "./terminals/live-terminals.ts";
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
  const { deps, busySql, wakeSql } = await openDatabase(options, clock, closers);
  const { pki, sessions } = await openKeys(config, deps, closers);
  const firstOperatorKey = await ensureFirstOperator(deps);
  await maintainPartitions(deps.sql, clock.now(), keepEvents(config.eventKeepDays));
  const closing = new AbortController();

  const parts: Parts = {
    config,
    deps,
    busySql,
    wakeSql,
    pki,
    auditSigner: await openAuditSigner({ stateDir: config.stateDir, passphrase: config.caPassphrase }),
    closers,
    addresses: makeAddresses(config),
    statuses: new Map(),
    closing,
    events: await openEvents(deps, {
      stateDir: config.stateDir,
      allowPrivate: config.webhookAllowPrivate,
      keepDays: config.eventKeepDays,
      closing: closing.signal,
    }),
    liveness: startLiveness(deps),
    liveTerminals: startLiveTerminals(deps),
    liveSockets: startLiveSockets({ ...deps, authority: pki.authority }),
    sessions,
  };
  closers.push(parts.liveness.close, parts.liveTerminals.close, parts.liveSockets.close);
  await openListeners(parts, await composeApps(parts));
  startLoops(parts);
  const { addresses } = parts;
  log.info(
    { publicUrl: addresses.publicUrl(), enrol: addresses.of("enrol"), node: addresses.of("node") },
    "control plane ready",
  );
  return {
    publicUrl: addresses.publicUrl(),
    enrolUrl: `https://${addresses.of("enrol")}`,
    nodeUrl: `https://${addresses.of("node")}`,
    firstOperatorKey,
    close: async () => await closeAll(closers),
  };
}

/** Everything that features, listeners and loops are made of. */
interface Parts extends Database {
  readonly config: Config;
  readonly pki: Pki;
  readonly auditSigner: AuditSigner;
  readonly closers: (() => Promise<void>)[];
  readonly addresses: Addresses;
  readonly statuses: LoopStatuses;
  readonly closing: AbortController;
  readonly events: Events;
  readonly liveness: Liveness;
  readonly liveTerminals: LiveTerminals;
  readonly liveSockets: RunningLiveSockets;
  readonly sessions: SessionTokens;
}

async function composeApps(parts: Parts): Promise<Readonly<Record<ListenerName, Pick<Hono, "fetch">>>> {
  const { config, deps, busySql, wakeSql, pki, addresses, liveness, liveTerminals, liveSockets, sessions } = parts;
  const enrolment = {
    ...deps,
    pki,
    sessions,
    nodeListenerFor: (host: string) => addresses.of("node", host),
    enrolListenerFor: (host: string) => addresses.of("enrol", host),
  };
  const imageFiles = makeImageFiles(config.stateDir);
  const requestCounts = makeRequestCounts();
  const busy = { ...deps, sql: busySql };
  const handOver = makeHandOver({ ...busy, pki });
  const forPeople = publicApp({
    deps,
    publicUrl: config.publicUrl ?? "/",
    onAnswer: requestCounts.count,
    consoleFiles: await consoleFiles(),
    features: [
      healthRoutes({ ...deps, statuses: parts.statuses }),
      metricsRoutes({ ...deps, isPublic: config.metricsPublic, requestCounts }),
      identityRoutes(deps),
      nodeRoutes(enrolment),
      reconciliationRoutes(deps),
      incidentRoutes(deps),
      pkiRoutes({ ...deps, pki, applyTrust: () => applyTrust(parts) }),
      imageRoutes({ ...deps, imageFiles }),
      allocationRoutes({ ...deps, handOver, release: makeReleases(busy) }),
      operationRoutes(deps),
      taskRoutes(deps),
      receiptRoutes(deps),
      jobRoutes({ ...deps, kinds: maintenanceJobs({}).kinds }),
      terminalRoutes({ ...deps, liveTerminals, publicOrigin: () => new URL(addresses.publicUrl()).origin }),
      telemetryRoutes(deps),
      auditRoutes({ ...deps, auditSigner: parts.auditSigner }),
      ...parts.events.features,
    ],
  });
  const forNodes = nodeApp({
    deps,
    authenticateNode: authenticateNode({
      ...busy,
      authority: pki.authority,
      liveSockets,
      sessions,
      refusals: makeRefusals(deps),
      outages: watchOutages({ ...deps, closing: parts.closing.signal }),
    }),
    features: [
      nodeNodeRoutes(enrolment),
      taskNodeRoutes({
        ...busy,
        wakeSql,
        pki,
        liveness,
        liveSockets,
        dispatch: makeDispatch({ ...busy, wakeSql, pki, random: Math.random }),
        handOver,
        closing: parts.closing.signal,
      }),
      reconciliationNodeRoutes(deps),
      imageNodeRoutes({ imageFiles }),
      telemetryNodeRoutes(deps),
      terminalNodeRoutes({ ...deps, liveTerminals }),
    ],
  });
  // Each app knows its own environment; a listener only hands requests over.
  return { public: forPeople, enrol: enrolApp({ deps, features: [enrolRoutes(enrolment)] }), node: forNodes } as never;
}

async function openListeners(parts: Parts, apps: Readonly<Record<ListenerName, Pick<Hono, "fetch">>>): Promise<void> {
  const { config, pki, addresses, closers } = parts;
  const plans = [
    { name: "public", address: config.publicListen, variable: "HOSTLER_PUBLIC_LISTEN", tls: null, hasWebSockets: true },
    {
      name: "enrol",
      address: config.enrolListen,
      variable: "HOSTLER_ENROL_LISTEN",
      tls: enrolTlsOptions(pki),
      hasWebSockets: false,
    },
    {
      name: "node",
      address: config.nodeListen,
      variable: "HOSTLER_NODE_LISTEN",
      tls: nodeTlsOptions(pki),
      hasWebSockets: true,
    },
  ] as const;
  for (const plan of plans) {
    const listener = await openListener({ ...plan, fetch: apps[plan.name].fetch, clock: parts.deps.clock });
    addresses.listeners.set(plan.name, listener);
    closers.push(listener.close);
  }
}

/** The keys: certificate authorities here, task keys in the signer's process, and the one that makes session codes. */
async function openKeys(
  config: Config,
  deps: Deps,
  closers: (() => Promise<void>)[],
): Promise<{ readonly pki: Pki; readonly sessions: SessionTokens }> {
  const signer = startSigner({ ...deps, folder: join(config.stateDir, "signer") });
  closers.push(signer.close);
  const folder = join(config.stateDir, "pki");
  const sessionKey = await readOrMakeFile(join(folder, "session.key"), () => randomBytes(32).toString("base64"));
  const pki = await openPki({
    folder,
    trustDomain: config.trustDomain,
    passphrase: config.caPassphrase,
    clock: deps.clock,
    store: makeTrustStore(deps.sql, folder),
    signer,
  });
  return { pki, sessions: makeSessionTokens(Buffer.from(sessionKey, "base64")) };
}

function startLoops(parts: Parts): void {
  const { deps, closing, statuses } = parts;
  const { signal } = closing;
  const loops = [
    runAuditSealer(
      { ...deps, auditSigner: parts.auditSigner },
      { signal, onStatus: (status) => void statuses.set("audit", status) },
    ),
    runNodeSweeper(deps, { signal, onStatus: (status) => void statuses.set("nodes", status) }),
    parts.events.run((name, status) => void statuses.set(name, status)),
    runTaskLoop(deps, { signal, onStatus: (status) => void statuses.set("tasks", status) }),
    scanWaiting(
      { ...deps, sql: parts.wakeSql },
      { signal, onStatus: (status) => void statuses.set("waiting tasks", status) },
    ),
    watchSnapshots(deps, { signal, onStatus: (status) => void statuses.set("transactions", status) }),
    runJobs(
      { ...deps, random: Math.random },
      {
        ...maintenanceJobs(keepEvents(parts.config.eventKeepDays)),
        signal,
        onStatus: (status) => void statuses.set("jobs", status),
      },
    ),
    renewOwnCertificates(deps, {
      signal,
      onStatus: (status) => void statuses.set("own certificates", status),
      renew: () => applyTrust(parts),
    }),
    followRotations(
      { ...deps, pki: parts.pki, applyTrust: () => applyTrust(parts) },
      { signal, onStatus: (status) => void statuses.set("trust", status) },
    ),
  ];
  // Closed first: waiting polls are answered and terminals told before the listeners go.
  parts.closers.push(async () => {
    closing.abort(new Error("the control plane is stopping"));
    await parts.liveTerminals.close();
    await Promise.all(loops);
  });
}

/** New certificates for our own listeners, and the node CAs that count now; open connections keep theirs. */
function applyTrust({ addresses, pki }: Parts): void {
  const enrol = addresses.listeners.get("enrol")?.server;
  const node = addresses.listeners.get("node")?.server;
  if (enrol !== undefined && "setSecureContext" in enrol) enrol.setSecureContext(enrolTlsOptions(pki));
  if (node !== undefined && "setSecureContext" in node) node.setSecureContext(nodeTlsOptions(pki));
}

/** Teardown does everything and then reports all failures. */
async function closeAll(closers: (() => Promise<void>)[]): Promise<void> {
  const failures: unknown[] = [];
  for (const close of closers.splice(0).toReversed()) await close().catch((error: unknown) => failures.push(error));
  if (failures.length > 0) throw new AggregateError(failures, "the control plane did not close cleanly");
}
