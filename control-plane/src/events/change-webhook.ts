import { randomBytes } from "node:crypto";
import type { Webhook, WebhookCreated } from "@hostler/shared/api/events.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { newId } from "@hostler/shared/ids.ts";
import { recordChange } from "../audit/record-change.ts";
import { EVENTS_TOPIC } from "../db/wake-bus.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Tx } from "../db/sql.ts";
import type { Deps } from "../deps.ts";
import type { Delivery, EventSink } from "./event-sink.ts";
import type { SecretBox } from "./secret-box.ts";
import {
  countSinks,
  emptySink,
  insertSink,
  lockSink,
  moveSink,
  readSink,
  readWebhooks,
  replayDeadLetters,
  rewindSink,
  type SinkRow,
} from "./sink-store.ts";
import { refusedUrl } from "./webhook-sink.ts";

/** Of one project, and of the platform. */
const WEBHOOKS_MAX = 20;

export interface WebhookDeps extends Pick<Deps, "sql" | "clock" | "wake"> {
  readonly secretBox: SecretBox;
  readonly allowPrivate: boolean;
  openSink(row: Pick<SinkRow, "id" | "url" | "secretEncrypted">): EventSink;
}

/** Who changes which webhook; the project comes from the path and was checked against the caller's roles. */
export interface WebhookCall {
  readonly actor: string;
  readonly requestId: string;
  readonly projectId: string | null;
}

/** The secret is in this answer and never again. Events from now on are delivered. */
export async function createWebhook(
  deps: WebhookDeps,
  call: WebhookCall,
  wanted: { readonly url: string; readonly topics: readonly string[] },
): Promise<WebhookCreated> {
  const refused = refusedUrl(wanted.url, deps.allowPrivate);
  if (refused !== null) throw new AppError("validation_failed", { errors: [{ pointer: "/url", message: refused }] });
  const { projectId } = call;
  const id = newId("webhook", deps.clock);
  const secret = `whsec_${randomBytes(32).toString("base64url")}`;
  await inTransaction(deps.sql, async (tx) => {
    if ((await countSinks(tx, projectId)) >= WEBHOOKS_MAX) {
      throw new AppError("conflict", { detail: `There are ${WEBHOOKS_MAX} webhooks. Remove one first.` });
    }
    const secretEncrypted = deps.secretBox.seal(secret, id);
    await insertSink(tx, { ...wanted, id, projectId, secretEncrypted, createdBy: call.actor });
    await record(tx, deps, { call, id, version: 1, topic: "webhook.created", body: { topics: wanted.topics } });
  });
  return { ...(await getWebhook(deps, call, id)), secret };
}

export async function getWebhook(
  deps: Pick<Deps, "sql">,
  call: Pick<WebhookCall, "projectId">,
  id: string,
): Promise<Webhook> {
  const [webhook] = await readWebhooks(deps.sql, { projectId: call.projectId, id, after: null, limit: 1 });
  if (webhook === undefined) throw new AppError("not_found");
  return webhook;
}

/** Final. What is being sent at this moment may still arrive. */
export async function removeWebhook(deps: WebhookDeps, call: WebhookCall, id: string): Promise<void> {
  await inTransaction(deps.sql, async (tx) => {
    if ((await lockSink(tx, id, call.projectId)) === undefined) throw new AppError("not_found");
    await move(tx, deps, { call, id, to: "removed", reason: null });
    await emptySink(tx, id);
  });
}

/** Sends dead letters again, or everything since a time; a disabled webhook becomes active and catches up. */
export async function replayWebhook(
  deps: WebhookDeps,
  call: WebhookCall,
  wanted: { readonly id: string; readonly since: string | undefined },
): Promise<Webhook> {
  const { id, since } = wanted;
  await inTransaction(deps.sql, async (tx) => {
    const sink = await lockSink(tx, id, call.projectId);
    if (sink === undefined) throw new AppError("not_found");
    if (since === undefined) await replayDeadLetters(tx, id);
    else await rewindSink(tx, id, since);
    if (sink.state === "disabled") await move(tx, deps, { call, id, to: "active", reason: null });
  });
  deps.wake.wake(EVENTS_TOPIC);
  return await getWebhook(deps, call, id);
}

/** Sends one made-up event at once, outside of the order, and tells what the receiver said. */
export async function testWebhook(
  deps: WebhookDeps,
  call: WebhookCall,
  wanted: { readonly id: string; readonly signal: AbortSignal },
): Promise<Delivery> {
  const row = await readSink(deps.sql, wanted.id, call.projectId);
  if (row === undefined) throw new AppError("not_found");
  const event = {
    id: newId("event", deps.clock),
    topic: "webhook.test",
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
  deps: WebhookDeps,
  change: {
    readonly call: WebhookCall;
    readonly id: string;
    readonly to: "active" | "removed";
    readonly reason: string | null;
  },
): Promise<void> {
  const { call, id, to } = change;
  const version = await moveSink(tx, { ...change, from: ["active", "disabled"] });
  if (version === undefined) throw new AppError("conflict");
  const topic = to === "active" ? "webhook.enabled" : "webhook.removed";
  await record(tx, deps, { call, id, version, topic, body: {} });
}

async function record(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  change: {
    readonly call: WebhookCall;
    readonly id: string;
    readonly version: number;
    readonly topic: string;
    readonly body: Readonly<Record<string, unknown>>;
  },
): Promise<void> {
  const { actor, requestId, projectId } = change.call;
  await recordChange(tx, deps.clock, {
    actor,
    topic: change.topic,
    targetId: change.id,
    targetVersion: change.version,
    projectId,
    requestId,
    body: change.body,
  });
}
