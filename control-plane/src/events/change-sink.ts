import { randomBytes } from "node:crypto";
import type { NatsSettings, Webhook, WebhookCreated } from "@hostler/shared/api/events.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId, type IdKind } from "@hostler/shared/ids.ts";
import { recordChange } from "../audit/record-change.ts";
import { EVENTS_TOPIC } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import { SINK_TOPICS } from "./disable-sink.ts";
import type { Delivery, EventSink, SinkKind } from "./event-sink.ts";
import { refusedNatsUrl } from "./nats-sink.ts";
import type { SecretBox } from "./secret-box.ts";
import {
  countMissed,
  countSinks,
  emptySink,
  insertSink,
  lockSink,
  moveSink,
  readSink,
  readSinks,
  replayDeadLetters,
  rewindSink,
  type SinkRow,
  type SinkScope,
} from "./sink-store.ts";
import { refusedUrl } from "./webhook-sink.ts";

/** Of one kind in one project, and of the platform. */
const SINKS_MAX = 20;

export interface SinkDeps extends Pick<Deps, "sql" | "clock" | "wake"> {
  readonly secretBox: SecretBox;
  readonly allowPrivate: boolean;
  openSink(row: Pick<SinkRow, "id" | "kind" | "url" | "secretEncrypted">): EventSink;
}

/** Who changes which kind of sink; the project comes from the path and was checked against the caller's roles. */
export interface SinkCall {
  readonly actor: string;
  readonly requestId: string;
  readonly kind: SinkKind;
  readonly projectId: string | null;
}

interface Wanted {
  readonly url: string;
  readonly topics: readonly string[];
}

const ID_KINDS = { webhook: "webhook", nats: "natsSink" } as const satisfies Record<SinkKind, IdKind>;

/** The secret is in this answer and never again. Events from now on are delivered. */
export async function createWebhook(deps: SinkDeps, call: SinkCall, wanted: Wanted): Promise<WebhookCreated> {
  const refused = refusedUrl(wanted.url, deps.allowPrivate);
  const secret = `whsec_${randomBytes(32).toString("base64url")}`;
  return { ...(await createSink(deps, call, { wanted, refused, secret })), secret };
}

/** The settings are sealed and never shown. Events from now on are delivered. */
export async function createNatsSink(
  deps: SinkDeps,
  call: SinkCall,
  wanted: Wanted & { readonly settings: NatsSettings },
): Promise<Webhook> {
  const refused = refusedNatsUrl(wanted.url, deps.allowPrivate);
  return await createSink(deps, call, { wanted, refused, secret: JSON.stringify(wanted.settings) });
}

async function createSink(
  deps: SinkDeps,
  call: SinkCall,
  options: { readonly wanted: Wanted; readonly refused: string | null; readonly secret: string },
): Promise<Webhook> {
  const { refused, secret } = options;
  if (refused !== null) throw new AppError("validation_failed", { errors: [{ pointer: "/url", message: refused }] });
  const { url, topics } = options.wanted;
  const id = newId(ID_KINDS[call.kind], deps.clock);
  await inTransaction(deps.sql, async (tx) => {
    if ((await countSinks(tx, call)) >= SINKS_MAX) {
      throw new AppError("conflict", { detail: `There are ${SINKS_MAX} of these. Remove one first.` });
    }
    const secretEncrypted = deps.secretBox.seal(secret, id);
    await insertSink(tx, { ...call, id, url, topics, secretEncrypted, createdBy: call.actor });
    await record(tx, deps, { call, id, version: 1, what: "created", body: { topics } });
  });
  return await getSink(deps, call, id);
}

export async function getSink(deps: Pick<Deps, "sql">, call: SinkScope, id: string): Promise<Webhook> {
  const [sink] = await readSinks(deps.sql, { ...call, id, after: null, limit: 1 });
  if (sink === undefined) throw new AppError("not_found");
  return sink;
}

/** Final. What is being sent at this moment may still arrive. */
export async function removeSink(deps: SinkDeps, call: SinkCall, id: string): Promise<void> {
  await inTransaction(deps.sql, async (tx) => {
    if ((await lockSink(tx, id, call)) === undefined) throw new AppError("not_found");
    await move(tx, deps, { call, id, to: "removed", body: {} });
    await emptySink(tx, id);
  });
}

/**
 * Sends dead letters again, or everything since a time; a disabled sink becomes active and catches up. What was dropped while it was
 * disabled is counted in the event of its return.
 */
export async function replaySink(
  deps: SinkDeps,
  call: SinkCall,
  wanted: { readonly id: string; readonly since: string | undefined },
): Promise<Webhook> {
  const { id, since } = wanted;
  await inTransaction(deps.sql, async (tx) => {
    const sink = await lockSink(tx, id, call);
    if (sink === undefined) throw new AppError("not_found");
    if (sink.state === "disabled") {
      await move(tx, deps, { call, id, to: "active", body: { missed: await countMissed(tx, id) } });
    }
    if (since === undefined) await replayDeadLetters(tx, id);
    else await rewindSink(tx, id, since);
  });
  deps.wake.wake(EVENTS_TOPIC);
  return await getSink(deps, call, id);
}

/** Sends one made-up event at once, outside of the order, and tells what the receiver said. */
export async function testSink(
  deps: SinkDeps,
  call: SinkCall,
  wanted: { readonly id: string; readonly signal: AbortSignal },
): Promise<Delivery> {
  const row = await readSink(deps.sql, wanted.id, call);
  if (row === undefined) throw new AppError("not_found");
  const event = {
    id: newId("event", deps.clock),
    topic: `${SINK_TOPICS[call.kind]}.test`,
    at: deps.clock.now().toISOString(),
    aggregateId: row.id,
    aggregateVersion: row.version,
    projectId: row.projectId,
    body: {},
  };
  return await deps.openSink(row).deliver(event, wanted.signal);
}

async function move(
  tx: Tx,
  deps: SinkDeps,
  change: {
    readonly call: SinkCall;
    readonly id: string;
    readonly to: "active" | "removed";
    readonly body: Readonly<Record<string, unknown>>;
  },
): Promise<void> {
  const { to } = change;
  const version = await moveSink(tx, { id: change.id, from: ["active", "disabled"], to, reason: null });
  if (version === undefined) throw new AppError("conflict");
  await record(tx, deps, { ...change, version, what: to === "active" ? "enabled" : "removed" });
}

async function record(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  change: {
    readonly call: SinkCall;
    readonly id: string;
    readonly version: number;
    readonly what: string;
    readonly body: Readonly<Record<string, unknown>>;
  },
): Promise<void> {
  const { actor, requestId, projectId, kind } = change.call;
  await recordChange(tx, deps.clock, {
    actor,
    topic: `${SINK_TOPICS[kind]}.${change.what}`,
    targetId: change.id,
    targetVersion: change.version,
    projectId,
    requestId,
    body: change.body,
  });
}
