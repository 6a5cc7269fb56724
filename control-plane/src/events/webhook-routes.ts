import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import {
  deadLetterSchema,
  webhookCreatedSchema,
  webhookCreateSchema,
  webhookReplaySchema,
  webhookSchema,
  webhookTestSchema,
} from "@hostler/shared/api/events.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import type { Context } from "hono";
import * as z from "zod";
import { idempotencyHeader, jsonAnswer, jsonBody, newApi, PROBLEMS, secured, securedOnce } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { decodeCursor, pageOfRows } from "../http/pagination.ts";
import { requireInProject, type Permission } from "../identity/permissions.ts";
import {
  createWebhook,
  getWebhook,
  removeWebhook,
  replayWebhook,
  testWebhook,
  type WebhookCall,
  type WebhookDeps,
} from "./change-webhook.ts";
import { readDeadLetters, readWebhooks } from "./sink-store.ts";

const tags = ["events"];

/** Members and operators have the same routes; what differs is data. */
interface Surface {
  readonly path: string;
  readonly permission: Permission;
  readonly of: string;
  /** Behind the verb of an operation's id. */
  readonly name: string;
  readonly params: z.ZodObject<{ projectId?: z.ZodString }>;
}
const SURFACES: readonly Surface[] = [
  {
    path: `${API_PREFIX.tenant}/projects/{projectId}/webhooks`,
    permission: "compute.webhook.manage",
    of: "a project",
    name: "Project",
    params: z.object({ projectId: idSchema("project") }),
  },
  {
    path: `${API_PREFIX.ops}/webhooks`,
    permission: "audit.webhook.manage",
    of: "the platform",
    name: "",
    params: z.object({}),
  },
];

/** Webhooks of a project for its members, and of the platform for operators. */
export function webhookRoutes(deps: WebhookDeps): OpenAPIHono<PublicEnv> {
  const api = newApi();
  for (const surface of SURFACES) {
    addCreate(api, deps, surface);
    addReads(api, deps, surface);
    addRemove(api, deps, surface);
    addReplay(api, deps, surface);
    addTest(api, deps, surface);
    addDeadLetters(api, deps, surface);
  }
  return api;
}

function addCreate(api: OpenAPIHono<PublicEnv>, deps: WebhookDeps, surface: Surface): void {
  const route = createRoute({
    ...securedOnce(surface.permission, { hasSecret: true }),
    method: "post",
    path: surface.path,
    operationId: `create${surface.name}Webhook`,
    summary: `Deliver the events of ${surface.of} to a URL`,
    description:
      "Each event is posted as JSON with hostler-event-id, hostler-timestamp and hostler-signature, which is v1= and the hex HMAC-SHA256 of timestamp, a dot and the body. The secret is in this answer and never shown again. At least once, in order; drop what was seen by id or aggregateVersion.",
    tags,
    request: { params: surface.params, headers: idempotencyHeader, body: jsonBody(webhookCreateSchema) },
    responses: { 201: jsonAnswer(webhookCreatedSchema, "Made."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => c.json(await createWebhook(deps, callOf(c, surface), c.req.valid("json")), 201));
}

function addReads(api: OpenAPIHono<PublicEnv>, deps: WebhookDeps, surface: Surface): void {
  const list = createRoute({
    ...secured(surface.permission),
    method: "get",
    path: surface.path,
    operationId: `list${surface.name}Webhooks`,
    summary: `List the webhooks of ${surface.of}`,
    tags,
    request: { params: surface.params, query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(webhookSchema, "Webhook"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const { limit, cursor } = c.req.valid("query");
    const { projectId } = callOf(c, surface);
    const page = { projectId, id: null, after: decodeCursor(cursor), limit: limit + 1 };
    return c.json(
      pageOfRows(await readWebhooks(deps.sql, page), limit, (row) => row.id),
      200,
    );
  });
  const get = createRoute({
    ...secured(surface.permission),
    method: "get",
    path: `${surface.path}/{webhookId}`,
    operationId: `get${surface.name}Webhook`,
    summary: `Look at a webhook of ${surface.of}`,
    tags,
    request: { params: withWebhook(surface) },
    responses: { 200: jsonAnswer(webhookSchema, "The webhook."), ...PROBLEMS },
  });
  api.openapi(get, async (c) =>
    c.json(await getWebhook(deps, callOf(c, surface), c.req.valid("param").webhookId), 200),
  );
}

function addRemove(api: OpenAPIHono<PublicEnv>, deps: WebhookDeps, surface: Surface): void {
  const route = createRoute({
    ...secured(surface.permission),
    method: "delete",
    path: `${surface.path}/{webhookId}`,
    operationId: `remove${surface.name}Webhook`,
    summary: `Remove a webhook of ${surface.of}`,
    tags,
    request: { params: withWebhook(surface) },
    responses: { 204: { description: "Removed." }, ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    await removeWebhook(deps, callOf(c, surface), c.req.valid("param").webhookId);
    return c.body(null, 204);
  });
}

function addReplay(api: OpenAPIHono<PublicEnv>, deps: WebhookDeps, surface: Surface): void {
  const route = createRoute({
    ...secured(surface.permission),
    method: "post",
    path: `${surface.path}/{webhookId}/replay`,
    operationId: `replay${surface.name}Webhook`,
    summary: "Deliver dead letters, or everything since a time, again",
    description: "A webhook that was disabled becomes active and catches up.",
    tags,
    request: { params: withWebhook(surface), body: jsonBody(webhookReplaySchema) },
    responses: { 200: jsonAnswer(webhookSchema, "Under way."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    const { webhookId: id } = c.req.valid("param");
    return c.json(await replayWebhook(deps, callOf(c, surface), { id, since: c.req.valid("json").since }), 200);
  });
}

function addTest(api: OpenAPIHono<PublicEnv>, deps: WebhookDeps, surface: Surface): void {
  const route = createRoute({
    ...secured(surface.permission),
    method: "post",
    path: `${surface.path}/{webhookId}/test`,
    operationId: `test${surface.name}Webhook`,
    summary: "Send an event of the topic webhook.test now, and see what the receiver answers",
    tags,
    request: { params: withWebhook(surface) },
    responses: { 200: jsonAnswer(webhookTestSchema, "What became of it."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    const wanted = { id: c.req.valid("param").webhookId, signal: c.req.raw.signal };
    const delivery = await testWebhook(deps, callOf(c, surface), wanted);
    const error = delivery.outcome === "failed" ? delivery.error : null;
    return c.json({ delivered: error === null, status: delivery.status, error }, 200);
  });
}

function addDeadLetters(api: OpenAPIHono<PublicEnv>, deps: WebhookDeps, surface: Surface): void {
  const route = createRoute({
    ...secured(surface.permission),
    method: "get",
    path: `${surface.path}/{webhookId}/dead-letters`,
    operationId: `list${surface.name}WebhookDeadLetters`,
    summary: "List what a webhook did not take, oldest first",
    tags,
    request: { params: withWebhook(surface), query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(deadLetterSchema, "DeadLetter"), "A page."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    const { limit, cursor } = c.req.valid("query");
    const { id: sinkId } = await getWebhook(deps, callOf(c, surface), c.req.valid("param").webhookId);
    const after = Number(decodeCursor(cursor) ?? 0);
    if (!Number.isSafeInteger(after)) {
      throw new AppError("validation_failed", {
        errors: [{ pointer: "?cursor", message: "This is not a cursor of this listing." }],
      });
    }
    const rows = await readDeadLetters(deps.sql, { sinkId, after, limit: limit + 1 });
    const { items, nextCursor } = pageOfRows(rows, limit, (row) => String(row.position));
    return c.json({ items: items.map(({ letter }) => letter), nextCursor }, 200);
  });
}

function withWebhook(surface: Surface) {
  return surface.params.extend({ webhookId: idSchema("webhook") });
}

/** The project of the path, after its check; a project that is not the caller's does not exist for it. */
function callOf(c: Context<PublicEnv>, surface: Surface): WebhookCall {
  const { principal, requestId } = c.var;
  const projectId = c.req.param("projectId") ?? null;
  if (projectId !== null) requireInProject(principal, surface.permission, projectId);
  return { actor: principal.id, requestId, projectId };
}
