import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { Agent, request, type Server } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import type { ConnectionOptions } from "node:tls";
import { X509Certificate, type KeyObject } from "node:crypto";
import { upgradeWebSocket } from "@hono/node-server";
import { makeP256Key, nodeIdOfAltName, parseBootstrapToken, serverNameOf, signEnrolProof } from "@hostler/pki";
import { systemClock, type Clock } from "@hostler/shared/clock.ts";
import {
  identitySchema,
  NODE_PATHS,
  PROTOCOL_VERSION,
  SESSION_HEADER,
  type EnrolClaims,
  type IdentityAnswer,
} from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import { pino } from "pino";
import { watchOutages } from "../db/outages.ts";
import { openWakeBus } from "../db/wake-bus.ts";
import { createTestDatabase } from "../db/test-database.ts";
import type { Sql } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { openListener, type Listener } from "../http/listeners.ts";
import { enrolApp, nodeApp } from "../http/node-apps.ts";
import type { NodeEnv } from "../http/node-env.ts";
import { publicApp } from "../http/public-app.ts";
import { ensureFirstOperator } from "../identity/create-api-key.ts";
import type { Pki } from "../pki/open-pki.ts";
import { pkiRoutes } from "../pki/routes.ts";
import { openTestPki } from "../pki/test-pki.ts";
import { makeTrustStore } from "../pki/trust-store.ts";
import { makeSessionTokens } from "./session-token.ts";
import { makeRefusals } from "./refusals.ts";
import { enrolTlsOptions, nodeTlsOptions } from "../pki/tls-options.ts";
import { authenticateNode } from "./authenticate-node.ts";
import { enrolRoutes } from "./enrol-routes.ts";
import { startLiveSockets, type LiveSockets } from "./live-sockets.ts";
import { nodeNodeRoutes, type NodeNodeDeps } from "./node-routes.ts";
import { nodeRoutes } from "./routes.ts";

export interface Answer {
  readonly status: number;
  /** The parsed body: an identity, a problem, whatever the route gives. */
  readonly body: Record<string, unknown>;
}

export interface TestIdentity {
  readonly key: KeyObject;
  readonly answer: IdentityAnswer;
}

/** The enrol and node listeners over real TLS on a database of their own, and the operator's routes beside them. */
export interface TestPlane {
  readonly sql: Sql;
  readonly pki: Pki;
  readonly stateDir: string;
  readonly enrolPort: number;
  readonly nodePort: number;
  /** Sets the control plane's clock that far off the real one. */
  shiftClock(ms: number): void;
  asOperator(method: string, path: string, body?: unknown): Promise<Answer>;
  makeToken(body?: Readonly<Record<string, unknown>>): Promise<string>;
  /** Sends an enrolment as a host would, with whatever is wrong about it. */
  enrol(token: string, options?: { readonly key?: KeyObject; readonly claims?: Partial<EnrolClaims> }): Promise<Answer>;
  makeNode(): Promise<TestIdentity>;
  /** A host's connection to the node listener, one socket that is kept alive. */
  connect(identity: Pick<TestIdentity, "key"> & { readonly chainPem: string }): TestConnection;
  tlsOf(identity: TestIdentity): ConnectionOptions;
  close(): Promise<void>;
}

export interface TestConnection {
  post(path: string, body: unknown): Promise<Answer>;
  close(): void;
}

const SESSION_KEY = Buffer.alloc(32, 7);

/** The session header of a node whose agent never started: number 0, which nobody but the key's holder can make. */
export function sessionHeader(chainPem: string): Record<string, string> {
  const nodeId = nodeIdOfAltName(new X509Certificate(chainPem).subjectAltName, "test.internal") ?? "none";
  return { [SESSION_HEADER]: makeSessionTokens(SESSION_KEY).make(nodeId, 0) };
}

/** The server side: what `start-control-plane.ts` builds, as far as nodes need it. */
async function openParts() {
  const stateDir = await mkdtemp(join(tmpdir(), "hostler-nodes-"));
  const database = await createTestDatabase();
  let shiftMs = 0;
  const clock: Clock = { ...systemClock, now: () => new Date(systemClock.now().getTime() + shiftMs) };
  const log = pino({ level: "silent" });
  const wake = openWakeBus({ url: database.url, replicaId: "test", clock, log });
  const deps = { sql: database.sql, clock, log, wake, replicaId: "test" };
  const pki = await openTestPki({ stateDir, clock, store: makeTrustStore(database.sql, join(stateDir, "pki")) });
  const liveSockets = startLiveSockets({ ...deps, authority: pki.authority });
  const sessions = makeSessionTokens(SESSION_KEY);
  const ports = { enrol: 0, node: 0 };
  const enrolment = {
    ...deps,
    pki,
    sessions,
    nodeListenerFor: () => `127.0.0.1:${ports.node}`,
    enrolListenerFor: () => `127.0.0.1:${ports.enrol}`,
  };
  const operatorKey = await ensureFirstOperator(deps);
  const listeners = await openTestListeners({ ...enrolment, log, liveSockets, replicaId: "test" });
  const operatorApp = publicApp({
    deps,
    publicUrl: "/",
    features: [nodeRoutes(enrolment), pkiRoutes({ ...deps, pki, applyTrust: listeners.applyTrust })],
    consoleFiles: async (_c, next) => await next(),
  });
  ports.enrol = listeners.enrol.port;
  ports.node = listeners.node.port;
  const close = async (): Promise<void> => {
    await listeners.enrol.close();
    await listeners.node.close();
    await liveSockets.close();
    await wake.close();
    await database.close();
    await rm(stateDir, { recursive: true, force: true });
  };
  return {
    sql: database.sql,
    pki,
    stateDir,
    ports,
    operatorApp,
    operatorKey,
    shiftClock: (ms: number) => void (shiftMs = ms),
    close,
  };
}

async function openTestListeners(
  deps: Deps & NodeNodeDeps & { readonly liveSockets: LiveSockets },
): Promise<{ readonly enrol: Listener; readonly node: Listener; applyTrust(): void }> {
  const { pki, clock, liveSockets, sessions } = deps;
  const listen = { address: { host: "127.0.0.1", port: 0 }, variable: "TEST", clock };
  const enrol = await openListener({
    ...listen,
    name: "enrol",
    fetch: enrolApp({ deps, features: [enrolRoutes(deps)] }).fetch,
    tls: enrolTlsOptions(pki),
    hasWebSockets: false,
  });
  const outages = watchOutages({ ...deps, closing: new AbortController().signal });
  const judging = { ...deps, authority: pki.authority, liveSockets, sessions, refusals: makeRefusals(deps), outages };
  const node = await openListener({
    ...listen,
    name: "node",
    fetch: nodeApp({
      deps,
      authenticateNode: authenticateNode(judging),
      features: [nodeNodeRoutes(deps), probeRoutes()],
    }).fetch,
    tls: nodeTlsOptions(pki),
    hasWebSockets: true,
  });
  return {
    enrol,
    node,
    applyTrust: () => {
      (enrol.server as Server).setSecureContext(enrolTlsOptions(pki));
      (node.server as Server).setSecureContext(nodeTlsOptions(pki));
    },
  };
}

export async function startTestPlane(): Promise<TestPlane> {
  const { ports, operatorApp, operatorKey, ...parts } = await openParts();
  const plain = { ca: parts.pki.authority.trustBundlePem, servername: serverNameOf("test.internal") };
  const enrolAgent = new Agent({ ...plain, keepAlive: true, maxSockets: 8 });
  const plane: TestPlane = {
    ...parts,
    enrolPort: ports.enrol,
    nodePort: ports.node,
    asOperator: async (method, path, body) => {
      const headers = {
        authorization: `Bearer ${operatorKey}`,
        "idempotency-key": crypto.randomUUID(),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      };
      const init = { method, headers, ...(body === undefined ? {} : { body: JSON.stringify(body) }) };
      const answer = await operatorApp.request(path, init);
      return { status: answer.status, body: parse(await answer.text()) };
    },
    makeToken: async (body = {}) =>
      String((await plane.asOperator("POST", "/api/ops/v1/bootstrap-tokens", body)).body["token"]),
    enrol: async (token, options = {}) => {
      const { id, secret } = parseBootstrapToken(token);
      const proof = await signEnrolProof(options.key ?? makeP256Key(), {
        iat: Math.floor(systemClock.now().getTime() / 1000),
        protocolVersion: PROTOCOL_VERSION,
        tokenId: id,
        tokenSecret: secret,
        hostName: "host",
        agentVersion: "test",
        ...options.claims,
      });
      return await post({ agent: enrolAgent, port: ports.enrol, path: NODE_PATHS.enrol }, JSON.stringify({ proof }));
    },
    makeNode: async () => {
      const key = makeP256Key();
      const answer = await plane.enrol(await plane.makeToken(), { key });
      return { key, answer: identitySchema.parse(answer.body) };
    },
    tlsOf: ({ key, answer }) => ({ ...plain, port: ports.node, key: pemOfKey(key), cert: answer.certificateChain }),
    connect: ({ key, chainPem }) => {
      const agent = new Agent({ ...plain, key: pemOfKey(key), cert: chainPem, keepAlive: true, maxSockets: 1 });
      return {
        post: async (path, body) =>
          await post({ agent, port: ports.node, path, headers: sessionHeader(chainPem) }, JSON.stringify(body)),
        close: () => agent.destroy(),
      };
    },
    close: async () => {
      enrolAgent.destroy();
      await parts.close();
    },
  };
  return plane;
}

/** Connects as the node that the answer of an enrolment or renewal made. */
export function connectAs(plane: TestPlane, { key, answer }: TestIdentity): TestConnection {
  return plane.connect({ key, chainPem: answer.certificateChain });
}

export function pemOfKey(key: KeyObject): string {
  return key.export({ type: "pkcs8", format: "pem" }).toString();
}

/** Routes that stand for what other rooms serve to nodes: an answer at once, one that waits, a WebSocket. */
export const PROBE_PATHS = { who: "/test/who", wait: "/test/wait", socket: "/test/socket" };

/** The nodes whose request has reached `PROBE_PATHS.wait`. */
export const waitingNodes = new Set<string>();

function probeRoutes(): Hono<NodeEnv> {
  const app = new Hono<NodeEnv>();
  app.post(PROBE_PATHS.who, (c) => c.json(c.var.node));
  app.post(PROBE_PATHS.wait, async (c) => {
    waitingNodes.add(c.var.node.id);
    await once(c.env.incoming.socket, "close");
    return c.json({});
  });
  app.get(PROBE_PATHS.socket, async (c) => {
    const upgrade = upgradeWebSocket(() => ({ onMessage: (event, socket) => socket.send(String(event.data)) }));
    return (await upgrade(c, async () => undefined)) ?? c.body(null, 426);
  });
  return app;
}

async function post(
  target: {
    readonly agent: Agent;
    readonly port: number;
    readonly path: string;
    readonly headers?: Record<string, string>;
  },
  body: string,
): Promise<Answer> {
  const sending = request({
    ...target,
    host: "127.0.0.1",
    method: "POST",
    headers: {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(body),
      ...target.headers,
    },
  });
  sending.end(body);
  const [answer] = (await once(sending, "response")) as [NodeJS.ReadableStream & { statusCode: number }];
  return { status: answer.statusCode, body: parse(await text(answer)) };
}

function parse(body: string): Record<string, unknown> {
  return body === "" ? {} : (JSON.parse(body) as Record<string, unknown>);
}
