import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, operationSchema, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import { isFinal, OPERATION_STATES, OPERATION_TRANSITIONS } from "@hostler/shared/states.ts";
import * as z from "zod";
import { operationTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { decodeCursor, pageOfRows } from "../http/pagination.ts";
import { requireInProject } from "../identity/permissions.ts";
import { cancelOperation } from "./cancel-operation.ts";
import { getOperation, listOperations } from "./operations.ts";
import { requireReadable } from "./require-readable.ts";

const RECHECK_MS = 2000;
const tags = ["operations"];
const params = z.object({ operationId: idSchema("operation") });
const filters = {
  state: z.enum(OPERATION_STATES).optional(),
  kind: z
    .string()
    .regex(/^[!-~]{0,80}$/)
    .optional(),
  targetId: z
    .string()
    .regex(/^[!-~]{0,80}$/)
    .optional(),
};
const scopeSchema = z
  .string()
  .regex(/^system:[a-z][a-z-]*$/, "Expected a scope such as system:storage.")
  .max(80);

/** Long work, for whoever waits for it. */
export function operationRoutes(deps: Pick<Deps, "sql" | "clock" | "wake">): OpenAPIHono<PublicEnv> {
  const api = newApi();
  addLists(api, deps);
  addGet(api, deps);
  addCancel(api, deps);
  return api;
}

function addLists(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql">): void {
  const page = jsonAnswer(pageOf(operationSchema, "Operation"), "A page.");
  const listOfProject = createRoute({
    ...secured("compute.allocation.read"),
    method: "get",
    path: `${API_PREFIX.tenant}/projects/{projectId}/operations`,
    operationId: "listProjectOperations",
    summary: "List the operations of a project, newest first",
    tags,
    request: { params: z.object({ projectId: idSchema("project") }), query: pageQuerySchema.extend(filters) },
    responses: { 200: page, ...PROBLEMS },
  });
  api.openapi(listOfProject, async (c) => {
    const { projectId } = c.req.valid("param");
    requireInProject(c.var.principal, "compute.allocation.read", projectId);
    const { limit, cursor, ...wanted } = c.req.valid("query");
    const rows = await listOperations(deps.sql, {
      ...wanted,
      projectId,
      after: decodeCursor(cursor),
      limit: limit + 1,
    });
    return c.json(
      pageOfRows(rows, limit, (row) => row.id),
      200,
    );
  });
  const listOfSystem = createRoute({
    ...secured("platform.operation.read"),
    method: "get",
    path: `${API_PREFIX.ops}/operations`,
    operationId: "listOperations",
    summary: "List the operations of the control plane itself, newest first",
    tags,
    request: { query: pageQuerySchema.extend({ ...filters, scope: scopeSchema.optional() }) },
    responses: { 200: page, ...PROBLEMS },
  });
  api.openapi(listOfSystem, async (c) => {
    const { limit, cursor, ...wanted } = c.req.valid("query");
    const after = decodeCursor(cursor);
    const rows = await listOperations(deps.sql, { ...wanted, projectId: null, after, limit: limit + 1 });
    return c.json(
      pageOfRows(rows, limit, (row) => row.id),
      200,
    );
  });
}

function addGet(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql" | "clock" | "wake">): void {
  const get = createRoute({
    ...secured("authenticated"),
    method: "get",
    path: `${API_PREFIX.common}/operations/{operationId}`,
    operationId: "getOperation",
    summary: "Show an operation, or wait for its end",
    description:
      "With waitSeconds the answer comes when the operation has ended, or after that time with its state then.",
    tags,
    request: {
      params,
      query: z.strictObject({ waitSeconds: z.coerce.number().int().min(0).max(25).default(0) }),
    },
    responses: { 200: jsonAnswer(operationSchema, "The operation."), ...PROBLEMS },
  });
  api.openapi(get, async (c) => {
    const { operationId } = c.req.valid("param");
    const deadlineMs = deps.clock.monotonicMs() + c.req.valid("query").waitSeconds * 1000;
    for (;;) {
      const operation = await getOperation(deps.sql, operationId);
      requireReadable(c.var.principal, operation);
      const leftMs = deadlineMs - deps.clock.monotonicMs();
      if (isFinal(OPERATION_TRANSITIONS, operation.state) || leftMs <= 0) return c.json(operation, 200);
      await deps.wake.wait(operationTopic(operationId), Math.min(leftMs, RECHECK_MS), c.req.raw.signal);
    }
  });
}

function addCancel(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql" | "clock" | "wake">): void {
  const cancel = createRoute({
    ...secured("authenticated"),
    method: "post",
    path: `${API_PREFIX.common}/operations/{operationId}/cancel`,
    operationId: "cancelOperation",
    summary: "Cancel an operation",
    description:
      "What waits is cancelled at once; what runs is told to stop, is undone, and shows cancelled when it has. What has ended, and giving a slice back, answer 409.",
    tags,
    request: { params },
    responses: { 202: jsonAnswer(operationSchema, "The operation as it is now."), ...PROBLEMS },
  });
  api.openapi(cancel, async (c) => {
    const { principal, requestId } = c.var;
    const { operationId } = c.req.valid("param");
    return c.json(await cancelOperation(deps, { principal, operationId, requestId }), 202);
  });
}
