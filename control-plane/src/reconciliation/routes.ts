import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, operationSchema } from "@hostler/shared/api/common.ts";
import { nodeSlicesSchema, sliceRemovalRequestSchema } from "@hostler/shared/api/slices.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import { idempotencyHeader, jsonAnswer, jsonBody, newApi, PROBLEMS, secured, securedOnce } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { rebuildByHand, removeByHand } from "./order-by-hand.ts";
import { readNodeSlices } from "./read-node-slices.ts";

const slices = `${API_PREFIX.ops}/nodes/{nodeId}/slices`;
const tags = ["fleet"];
const nodeParams = z.object({ nodeId: idSchema("node") });
const sliceParams = nodeParams.extend({ allocationId: idSchema("allocation") });
const responses = { 202: jsonAnswer(operationSchema, "Ordered."), ...PROBLEMS };

/** What hosts have, and what operators do about it. */
export function reconciliationRoutes(deps: Pick<Deps, "sql" | "clock" | "wake">): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const list = createRoute({
    ...secured("fleet.node.read"),
    method: "get",
    path: slices,
    operationId: "listNodeSlices",
    summary: "List the slices that a host shows, and what is the matter with them",
    tags,
    request: { params: nodeParams },
    responses: { 200: jsonAnswer(nodeSlicesSchema, "As of the host's last list."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => c.json(await readNodeSlices(deps.sql, c.req.valid("param").nodeId), 200));
  addRemoval(api, deps);
  addRebuild(api, deps);
  return api;
}

function addRemoval(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql" | "clock" | "wake">): void {
  const remove = createRoute({
    ...securedOnce("fleet.node.manage"),
    method: "post",
    path: `${slices}/{allocationId}/removal`,
    operationId: "removeNodeSlice",
    summary: "Remove a slice that is nobody's from its host",
    description: "For what this control plane does not know: its disk is erased. A slice of an allocation is refused.",
    tags,
    request: { params: sliceParams, headers: idempotencyHeader, body: jsonBody(sliceRemovalRequestSchema) },
    responses,
  });
  api.openapi(remove, async (c) => {
    const { generation, reason = "an operator said so" } = c.req.valid("json");
    const by = { actor: c.var.principal.id, requestId: c.var.requestId };
    return c.json(await removeByHand(deps, { ...c.req.valid("param"), generation, reason, ...by }), 202);
  });
}

function addRebuild(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql" | "clock" | "wake">): void {
  const rebuild = createRoute({
    ...securedOnce("fleet.node.manage"),
    method: "post",
    path: `${slices}/{allocationId}/rebuild`,
    operationId: "rebuildNodeSlice",
    summary: "Bring an allocation's slice back, with an empty disk where its own is gone",
    tags,
    request: {
      params: sliceParams,
      headers: idempotencyHeader,
      body: jsonBody(z.strictObject({ generation: z.int().min(1).default(1) })),
    },
    responses,
  });
  api.openapi(rebuild, async (c) => {
    const { generation } = c.req.valid("json");
    const by = { actor: c.var.principal.id, requestId: c.var.requestId };
    return c.json(await rebuildByHand(deps, { ...c.req.valid("param"), generation, ...by }), 202);
  });
}
