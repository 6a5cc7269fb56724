import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import {
  deadLetterSchema,
  natsSinkCreateSchema,
  natsSinkSchema,
  webhookCreatedSchema,
  webhookCreateSchema,
  webhookReplaySchema,
  webhookSchema,
  webhookTestSchema,
} from "@hostler/shared/api/events.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import type { Context } from "hono";
import * as z from "zod";
import { idempotencyHeader, jsonAnswer, jsonBody, newApi, PROBLEMS, secured, securedOnce } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { decodeNumberCursor, pageOfRows, readPage } from "../http/pagination.ts";
import { requireInProject, type Permission } from "../identity/permissions.ts";
import {
  createNatsSink,
  createWebhook,
  getSink,
  removeSink,
  replaySink,
  testSink,
  type SinkCall,
  type SinkDeps,
} from "./change-sink.ts";
import type { SinkKind } from "./event-sink.ts";
import { readDeadLetters, readSinks } from "./sink-store.ts";

const tags = ["events"];

/** Members and operators have the same routes, and so have webhooks and brokers; what differs is data. */
interface Surface {
  readonly kind: SinkKind;
  readonly path: string;
  readonly permission: Permission;
  readonly of: string;
  /** Behind the verb of an operation's id. */
  readonly name: string;
  readonly noun: string;
  readonly schema: typeof webhookSchema;
  readonly params: z.ZodObject<{ projectId?: z.ZodString }>;
  /** The name of the path's last parameter, and what it takes. */
  readonly param: string;
  readonly idSchema: z.ZodString;
}
const WEBHOOK = {
  kind: "webhook",
  noun: "a webhook",
  schema: webhookSchema,
  param: "webhookId",
  idSchema: idSchema("webhook"),
} as const;
const SURFACES: readonly Surface[] = [
  {
    ...WEBHOOK,
    path: `${API_PREFIX.tenant}/projects/{projectId}/webhooks`,
    permission: "compute.webhook.manage",
    of: "a project",
    name: "ProjectWebhook",
    params: z.object({ projectId: idSchema("project") }),
  },
  {
    ...WEBHOOK,
    path: `${API_PREFIX.ops}/webhooks`,
    permission: "audit.webhook.manage",
    of: "the platform",
    name: "Webhook",
    params: z.object({}),
  },
  {
    kind: "nats",
    path: `${API_PREFIX.ops}/nats-sinks`,
    permission: "audit.webhook.manage",
    of: "the platform",
    name: "NatsSink",
    noun: "a NATS sink",
    schema: natsSinkSchema,
    params: z.object({}),
    param: "natsSinkId",
    idSchema: idSchema("natsSink"),
  },
];

/** Webhooks of a project for its members, and webhooks and brokers of the platform for operators. */
export function sinkRoutes(deps: SinkDeps): OpenAPIHono<PublicEnv> {
  const api = newApi();
  for (const surface of SURFACES) {
    if (surface.kind === "webhook") addCreateWebhook(api, deps, surface);
    else addCreateNatsSink(api, deps, surface);
    addReads(api, deps, surface);
    addRemove(api, deps, surface);
    addReplay(api, deps, surface);
    addTest(api, deps, surface);
    addDeadLetters(api, deps, surface);
  }
  return api;
}

function addCreateWebhook(api: OpenAPIHono<PublicEnv>, deps: SinkDeps, surface: Surface): void {
  const route = createRoute({
    ...securedOnce(surface.permission, { hasSecret: true }),
    method: "post",
    path: surface.path,
    operationId: `create${surface.name}`,
    summary: `Deliver the events of ${surface.of} to a URL`,
    description:
      "Each event is posted as JSON with hostler-event-id, hostler-timestamp and hostler-signature, which is v1= and the hex HMAC-SHA256 of timestamp, a dot and the body. The secret is in this answer and never shown again. At least once, and in order for each aggregate, with up to 8 requests at once; drop what was seen by id or aggregateVersion.",
    tags,
    request: { params: surface.params, headers: idempotencyHeader, body: jsonBody(webhookCreateSchema) },
    responses: { 201: jsonAnswer(webhookCreatedSchema, "Made."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => c.json(await createWebhook(deps, callOf(c, surface), c.req.valid("json")), 201));
}

function addCreateNatsSink(api: OpenAPIHono<PublicEnv>, deps: SinkDeps, surface: Surface): void {
  const route = createRoute({
    ...securedOnce(surface.permission, { hasSecret: true }),
    method: "post",
    path: surface.path,
    operationId: `create${surface.name}`,
    summary: `Publish the events of ${surface.of} to a NATS JetStream stream`,
    description:
      "Each event is published as JSON on the subject hostler.<topic>, with Nats-Msg-Id, Hostler-Aggregate-Id and Hostler-Aggregate-Version, and counts as told when a stream acknowledged it. Make the stream first, with the subjects hostler.>. At least once, and in order for each aggregate. What is in auth and tls is never shown again.",
    tags,
    request: { params: surface.params, headers: idempotencyHeader, body: jsonBody(natsSinkCreateSchema) },
    responses: { 201: jsonAnswer(natsSinkSchema, "Made."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    const { url, topics, ...settings } = c.req.valid("json");
    return c.json(await createNatsSink(deps, callOf(c, surface), { url, topics, settings }), 201);
  });
}

function addReads(api: OpenAPIHono<PublicEnv>, deps: SinkDeps, surface: Surface): void {
  const list = createRoute({
    ...secured(surface.permission),
    method: "get",
    path: surface.path,
    operationId: `list${surface.name}s`,
    summary: `List what delivers the events of ${surface.of}: ${surface.noun.replace(/^a /, "")}s`,
    tags,
    request: { params: surface.params, query: pageQuerySchema },
    responses: {
      200: jsonAnswer(pageOf(surface.schema, surface.kind === "nats" ? "NatsSink" : "Webhook"), "A page."),
      ...PROBLEMS,
    },
  });
  api.openapi(list, async (c) => {
    const { projectId, kind } = callOf(c, surface);
    const page = await readPage(
      c.req.valid("query"),
      async (at) => await readSinks(deps.sql, { projectId, kind, id: null, ...at }),
    );
    return c.json(page, 200);
  });
  const get = createRoute({
    ...secured(surface.permission),
    method: "get",
    path: `${surface.path}/{${surface.param}}`,
    operationId: `get${surface.name}`,
    summary: `Look at ${surface.noun} of ${surface.of}`,
    tags,
    request: { params: withId(surface) },
    responses: { 200: jsonAnswer(surface.schema, "The webhook."), ...PROBLEMS },
  });
  api.openapi(get, async (c) => c.json(await getSink(deps, callOf(c, surface), idOf(c, surface)), 200));
}

function addRemove(api: OpenAPIHono<PublicEnv>, deps: SinkDeps, surface: Surface): void {
  const route = createRoute({
    ...secured(surface.permission),
    method: "delete",
    path: `${surface.path}/{${surface.param}}`,
    operationId: `remove${surface.name}`,
    summary: `Remove ${surface.noun} of ${surface.of}`,
    tags,
    request: { params: withId(surface) },
    responses: { 204: { description: "Removed." }, ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    await removeSink(deps, callOf(c, surface), idOf(c, surface));
    return c.body(null, 204);
  });
}

function addReplay(api: OpenAPIHono<PublicEnv>, deps: SinkDeps, surface: Surface): void {
  const route = createRoute({
    ...secured(surface.permission),
    method: "post",
    path: `${surface.path}/{${surface.param}}/replay`,
    operationId: `replay${surface.name}`,
    summary: `Deliver dead letters, or everything since a time, to ${surface.noun} of ${surface.of} again`,
    description: "As far back as events are kept. What was disabled becomes active and catches up.",
    tags,
    request: { params: withId(surface), body: jsonBody(webhookReplaySchema) },
    responses: { 200: jsonAnswer(surface.schema, "Under way."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    const id = idOf(c, surface);
    return c.json(await replaySink(deps, callOf(c, surface), { id, since: c.req.valid("json").since }), 200);
  });
}

function addTest(api: OpenAPIHono<PublicEnv>, deps: SinkDeps, surface: Surface): void {
  const route = createRoute({
    ...secured(surface.permission),
    method: "post",
    path: `${surface.path}/{${surface.param}}/test`,
    operationId: `test${surface.name}`,
    summary: `Send a test event to ${surface.noun} of ${surface.of} now, and see what the receiver answers`,
    tags,
    request: { params: withId(surface) },
    responses: { 200: jsonAnswer(webhookTestSchema, "What became of it."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    const wanted = { id: idOf(c, surface), signal: c.req.raw.signal };
    const delivery = await testSink(deps, callOf(c, surface), wanted);
    const error = delivery.outcome === "failed" ? delivery.error : null;
    return c.json({ delivered: error === null, status: delivery.status, error }, 200);
  });
}

function addDeadLetters(api: OpenAPIHono<PublicEnv>, deps: SinkDeps, surface: Surface): void {
  const route = createRoute({
    ...secured(surface.permission),
    method: "get",
    path: `${surface.path}/{${surface.param}}/dead-letters`,
    operationId: `list${surface.name}DeadLetters`,
    summary: `List what ${surface.noun} of ${surface.of} did not take, oldest first`,
    tags,
    request: { params: withId(surface), query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(deadLetterSchema, "DeadLetter"), "A page."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    const { limit, cursor } = c.req.valid("query");
    const { id: sinkId } = await getSink(deps, callOf(c, surface), idOf(c, surface));
    const after = decodeNumberCursor(cursor) ?? 0;
    const rows = await readDeadLetters(deps.sql, { sinkId, after, limit: limit + 1 });
    const { items, nextCursor } = pageOfRows(rows, limit, (row) => String(row.position));
    return c.json({ items: items.map(({ letter }) => letter), nextCursor }, 200);
  });
}

function withId(surface: Surface) {
  return surface.params.extend({ [surface.param]: surface.idSchema });
}

/** The route's schema has checked it. */
function idOf(c: Context<PublicEnv>, surface: Surface): string {
  return c.req.param(surface.param) ?? "";
}

/** The project of the path, after its check; a project that is not the caller's does not exist for it. */
function callOf(c: Context<PublicEnv>, surface: Surface): SinkCall {
  const { principal, requestId } = c.var;
  const projectId = c.req.param("projectId") ?? null;
  if (projectId !== null) requireInProject(principal, surface.permission, projectId);
  return { actor: principal.id, requestId, kind: surface.kind, projectId };
}
