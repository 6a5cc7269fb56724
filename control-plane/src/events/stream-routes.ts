import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import { eventStreamQuerySchema } from "@hostler/shared/api/events.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import type { Context } from "hono";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import { newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { authenticate } from "../identity/authenticate.ts";
import { mayDo, requireInProject, type Permission } from "../identity/permissions.ts";
import type { EventScope } from "./store.ts";
import { streamAnswer } from "./stream-answer.ts";
import { findStart, streamEvents } from "./stream-events.ts";

const STREAM_CONTENT_TYPE = "text/event-stream";
const tags = ["events"];

export interface StreamLimits {
  readonly heartbeatMs: number;
  /** A reader that takes nothing for so long is cut. */
  readonly stallMs: number;
  readonly streamsPerPrincipalMax: number;
}
export const STREAM_LIMITS: StreamLimits = { heartbeatMs: 15_000, stallMs: 30_000, streamsPerPrincipalMax: 20 };

export interface StreamDeps extends Pick<Deps, "sql" | "clock" | "wake"> {
  /** Aborts when the control plane stops: streams end, and their readers go to another replica. */
  readonly closing: AbortSignal;
  readonly limits?: StreamLimits;
}

const headersSchema = z.object({
  "last-event-id": z
    .string()
    .max(80)
    .optional()
    .meta({ description: "The `id:` of the last event that was seen. Browsers send it by themselves." }),
});

const description =
  "Server-Sent Events in one order for all readers. Each event comes after its commit; a reader that reconnects with Last-Event-ID (or after=) misses none and sees none twice. A comment comes every 15 s. A reader that takes nothing for 30 s is cut.";

const answer = { description: "Events as they happen.", content: { [STREAM_CONTENT_TYPE]: { schema: z.string() } } };

/** What happens, as it happens: to members that of their project, to operators all of the platform. */
export function eventStreamRoutes(deps: StreamDeps): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const open = makeOpener(deps);
  const ofProject = createRoute({
    ...secured("compute.event.read"),
    method: "get",
    path: `${API_PREFIX.tenant}/projects/{projectId}/events`,
    operationId: "streamProjectEvents",
    summary: "Follow what happens in a project",
    description,
    tags,
    request: {
      params: z.object({ projectId: idSchema("project") }),
      query: eventStreamQuerySchema,
      headers: headersSchema,
    },
    responses: { 200: answer, ...PROBLEMS },
  });
  api.openapi(ofProject, async (c) => {
    const { projectId } = c.req.valid("param");
    requireInProject(c.var.principal, "compute.event.read", projectId);
    const after = c.req.valid("header")["last-event-id"] ?? c.req.valid("query").after;
    return await open(c, { scope: { projectId }, permission: "compute.event.read", after });
  });
  const ofPlatform = createRoute({
    ...secured("audit.event.read"),
    method: "get",
    path: `${API_PREFIX.ops}/events`,
    operationId: "streamEvents",
    summary: "Follow what happens on the platform",
    description,
    tags,
    request: { query: eventStreamQuerySchema, headers: headersSchema },
    responses: { 200: answer, ...PROBLEMS },
  });
  api.openapi(ofPlatform, async (c) => {
    const after = c.req.valid("header")["last-event-id"] ?? c.req.valid("query").after;
    return await open(c, { scope: "platform", permission: "audit.event.read", after });
  });
  return api;
}

interface StreamRequest {
  readonly scope: EventScope;
  readonly permission: Permission;
  readonly after: string | undefined;
}

/** Counts the streams of each principal on this replica, and opens one more unless there are too many. */
function makeOpener(deps: StreamDeps) {
  const limits = deps.limits ?? STREAM_LIMITS;
  const counts = new Map<string, number>();
  const change = (principalId: string, by: number): void => {
    const count = (counts.get(principalId) ?? 0) + by;
    if (count === 0) counts.delete(principalId);
    else counts.set(principalId, count);
  };
  return async (c: Context<PublicEnv>, request: StreamRequest): Promise<Response> => {
    // Proxies that gather answers before they pass them on would hold events back. A connection that were kept after the stream
    // would keep a stopping listener waiting.
    const headers = { "content-type": STREAM_CONTENT_TYPE, "x-accel-buffering": "no", connection: "close" };
    // A HEAD's body is dropped unread: a stream for it would stay open for nobody.
    if (c.req.method === "HEAD") return c.body(null, 200, headers);
    const { id: principalId } = c.var.principal;
    const { scope, permission } = request;
    if ((counts.get(principalId) ?? 0) >= limits.streamsPerPrincipalMax) {
      throw new AppError("rate_limited", {
        detail: `This key has ${limits.streamsPerPrincipalMax} streams open. Close one first.`,
      });
    }
    change(principalId, 1);
    try {
      const start = await findStart(deps, scope, request.after === "" ? undefined : request.after);
      const left = new AbortController();
      const key = c.req.header("authorization");
      const pieces = streamEvents(deps, start, {
        ...request,
        heartbeatMs: limits.heartbeatMs,
        signal: AbortSignal.any([deps.closing, left.signal]),
        mayGoOn: async () => {
          const principal = await authenticate(deps, key);
          return principal !== null && mayDo(principal, permission, scope === "platform" ? null : scope.projectId);
        },
      });
      const body = streamAnswer({
        pieces,
        clock: deps.clock,
        stallMs: limits.stallMs,
        cut: (reason, error) => {
          c.var.log().info({ principalId, reason, err: error }, "event stream was cut");
          c.env.outgoing.destroy();
        },
        onClose: () => {
          change(principalId, -1);
          left.abort();
        },
      });
      return c.body(body, 200, headers);
    } catch (error) {
      change(principalId, -1);
      throw error;
    }
  };
}
