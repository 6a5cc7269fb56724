import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { randomBytes } from "node:crypto";
import { text } from "node:stream/consumers";
import { eventSchema, type Event } from "@hostler/shared/api/events.ts";
import { organizationSchema, projectSchema } from "@hostler/shared/api/identity.ts";
import { systemClock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import { pino } from "pino";
import { recordChange } from "../audit/record-change.ts";
import { createTestDatabase } from "../db/test-database.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Sql, Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { openWakeBus, type RunningWakeBus } from "../db/wake-bus.ts";
import { openListener } from "../http/listeners.ts";
import { publicApp } from "../http/public-app.ts";
import { createApiKey, ensureFirstOperator } from "../identity/create-api-key.ts";
import { identityRoutes } from "../identity/routes.ts";
import { DELIVERY_LIMITS, type DeliveryLimits } from "./deliver-events.ts";
import type { ClaimedSink } from "./delivery-store.ts";
import type { EventSink } from "./event-sink.ts";
import { runEventRelay } from "./run-event-relay.ts";
import { makeSecretBox } from "./secret-box.ts";
import { runEventSequencer } from "./sequence-events.ts";
import { eventStreamRoutes, STREAM_LIMITS, type StreamLimits } from "./stream-routes.ts";
import { openNatsSinks } from "./nats-sink.ts";
import { makeOpenSink } from "./open-sink.ts";
import { sinkRoutes } from "./sink-routes.ts";

/** The public listener with the room's routes, on a database of its own. Loops run only when a test starts them. */
export interface EventPlane {
  readonly url: string;
  readonly sql: Sql;
  readonly wake: RunningWakeBus;
  readonly operatorKey: string;
  readonly projectId: string;
  readonly memberKey: string;
  /** Another tenant. */
  makeProject(): Promise<{ readonly projectId: string; readonly memberKey: string }>;
  call(
    method: string,
    path: string,
    key: string,
    body?: unknown,
  ): Promise<{ status: number; body: Record<string, unknown> }>;
  /** One more change of the aggregate, under its row lock as the product's own changes are; resolves after the commit. */
  change(aggregateId: string, options?: ChangeOptions): Promise<void>;
  startSequencer(): () => Promise<void>;
  startRelay(limits?: Partial<DeliveryLimits>, openSink?: (claimed: ClaimedSink) => EventSink): () => Promise<void>;
  /** Ends streams as a stopping control plane does. */
  stopStreams(): void;
  close(): Promise<void>;
}

export interface ChangeOptions {
  readonly projectId?: string | null;
  readonly topic?: string;
  /** Runs in the transaction before, or after, the change. */
  readonly before?: (tx: Tx) => Promise<unknown>;
  readonly after?: (tx: Tx) => Promise<unknown>;
}

export async function openEventPlane(limits: Partial<StreamLimits> = {}): Promise<EventPlane> {
  const database = await createTestDatabase();
  const { sql } = database;
  await sql`create table test_aggregates (id text primary key, version int not null)`;
  const log = pino({ level: "silent" });
  const replicaId = randomBytes(4).toString("hex");
  const wake = openWakeBus({ url: database.url, replicaId, clock: systemClock, log });
  const deps = { sql, clock: systemClock, log, wake, replicaId };
  const operatorKey = (await ensureFirstOperator(deps)) ?? "";
  const closing = new AbortController();
  const { listener, openSink, nats } = await openTestListener(deps, { ...STREAM_LIMITS, ...limits }, closing.signal);
  const url = `http://127.0.0.1:${listener.port}`;
  const call = makeCall(url);
  const makeProject = await makeTenancy(deps, call, operatorKey);
  const own = await makeProject();
  const loops = makeLoops();
  const onStatus = (): void => undefined;
  return {
    url,
    sql,
    wake,
    operatorKey,
    ...own,
    makeProject,
    call,
    change: async (aggregateId, options = {}) => {
      await inTransaction(sql, async (tx) => {
        await options.before?.(tx);
        await writeChange(tx, aggregateId, { projectId: own.projectId, ...options });
        await options.after?.(tx);
      });
      wake.wake("something");
    },
    startSequencer: () => loops.start(async (signal) => await runEventSequencer(deps, { signal, onStatus })),
    startRelay: (some = {}, open) =>
      loops.start(async (signal) => {
        const relay = { ...deps, openSink: open ?? openSink, random: Math.random };
        await runEventRelay({ ...relay, limits: { ...DELIVERY_LIMITS, ...some } }, { signal, onStatus });
      }),
    stopStreams: () => closing.abort(new Error("the control plane is stopping")),
    close: async () => {
      closing.abort(new Error("closed"));
      await loops.stopAll();
      await listener.close();
      await nats.close();
      await wake.close();
      await database.close();
    },
  };
}

async function openTestListener(deps: Deps, limits: StreamLimits, closing: AbortSignal) {
  const secretBox = makeSecretBox(randomBytes(32));
  const nats = openNatsSinks({ clock: systemClock, allowClear: true });
  const webhooks = { allowPrivate: true, clock: systemClock, timeoutMs: 500 };
  const openSink = makeOpenSink({ secretBox, nats, webhooks });
  const app = publicApp({
    deps,
    publicUrl: "/",
    features: [
      identityRoutes(deps),
      eventStreamRoutes({ ...deps, closing, limits }),
      sinkRoutes({ ...deps, secretBox, allowPrivate: true, openSink }),
    ],
    consoleFiles: async (_c, next) => await next(),
  });
  const listener = await openListener({
    name: "public",
    address: { host: "127.0.0.1", port: 0 },
    variable: "NONE",
    fetch: app.fetch,
    tls: null,
    hasWebSockets: false,
    clock: systemClock,
  });
  return { listener, openSink, nats };
}

function makeCall(url: string): EventPlane["call"] {
  return async (method, path, key, body) => {
    const response = await fetch(`${url}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${key}`,
        "idempotency-key": newId("request", systemClock),
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const answer = await response.text();
    return { status: response.status, body: answer === "" ? {} : (JSON.parse(answer) as Record<string, unknown>) };
  };
}

async function makeTenancy(
  deps: Deps,
  call: EventPlane["call"],
  operatorKey: string,
): Promise<EventPlane["makeProject"]> {
  const made = await call("POST", "/api/ops/v1/organizations", operatorKey, { name: "test" });
  const { id: organizationId } = organizationSchema.parse(made.body);
  return async () => {
    const name = `p${randomBytes(4).toString("hex")}`;
    const answer = await call("POST", "/api/ops/v1/projects", operatorKey, { organizationId, name });
    const project = projectSchema.parse(answer.body);
    const bindings = [{ role: "member", projectId: project.id }] as const;
    const key = await createApiKey(deps, { actor: "system:test", requestId: null, name, bindings });
    return { projectId: project.id, memberKey: key.secret };
  };
}

function makeLoops() {
  const stops: (() => Promise<void>)[] = [];
  return {
    start: (run: (signal: AbortSignal) => Promise<void>): (() => Promise<void>) => {
      const abort = new AbortController();
      const running = run(abort.signal);
      const stop = async (): Promise<void> => {
        abort.abort(new Error("stopped by the test"));
        await running;
      };
      stops.push(stop);
      return stop;
    },
    stopAll: async (): Promise<void> => {
      for (const stop of stops) await stop();
    },
  };
}

async function writeChange(tx: Tx, aggregateId: string, options: ChangeOptions): Promise<void> {
  const [row] = await tx<{ version: number }[]>`
    insert into test_aggregates as a (id, version) values (${aggregateId}, 1)
    on conflict (id) do update set version = a.version + 1
    returning version
  `;
  await recordChange(tx, systemClock, {
    actor: "system:test",
    topic: options.topic ?? "thing.changed",
    targetId: aggregateId,
    targetVersion: row?.version ?? 0,
    projectId: options.projectId ?? null,
    requestId: null,
    body: { note: "Zoë\nline" },
  });
}

export interface Received {
  readonly event: Event;
  readonly body: string;
  readonly headers: IncomingHttpHeaders;
}

/** A receiver of webhooks on a real socket, which answers as told. */
export interface Receiver {
  readonly url: string;
  /** What it took with a 2xx, in the order of its answers. */
  readonly taken: Received[];
  /** Everything that came. */
  readonly seen: Received[];
  close(): Promise<void>;
}

export async function openReceiver(
  answer: (received: Received, response: ServerResponse) => void | Promise<void> = (_received, response) =>
    void response.writeHead(204).end(),
): Promise<Receiver> {
  const taken: Received[] = [];
  const seen: Received[] = [];
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const body = await text(request);
    const received = { event: eventSchema.parse(JSON.parse(body)), body, headers: request.headers };
    seen.push(received);
    response.once("finish", () => {
      if (response.statusCode < 300) taken.push(received);
    });
    await answer(received, response);
  };
  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`,
    taken,
    seen,
    close: async () => {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

/** Aggregates of which an event came that is not the next after the last one that was first seen. */
export function outOfOrder(events: readonly Event[]): string[] {
  const versions = new Map<string, number>();
  const wrong: string[] = [];
  for (const { aggregateId, aggregateVersion } of events) {
    const highest = versions.get(aggregateId) ?? 0;
    // At least once: what was seen may come again, what was not seen comes only as the next.
    if (aggregateVersion > highest + 1) wrong.push(`${aggregateId} ${highest} -> ${aggregateVersion}`);
    versions.set(aggregateId, Math.max(highest, aggregateVersion));
  }
  return wrong;
}
