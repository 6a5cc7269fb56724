import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import {
  nodeDrainSchema,
  nodeLabelsSchema,
  nodeReasonSchema,
  nodeSchema,
  slotReturnSchema,
} from "@hostler/shared/api/nodes.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import type { Context } from "hono";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import { jsonAnswer, jsonBody, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { changeNodeState, type DrainWish, type NodeAction } from "./change-node-state.ts";
import { labelNode } from "./label-node.ts";
import { returnSlot } from "./return-slot.ts";

type ActionDeps = Pick<Deps, "sql" | "clock" | "wake">;

const nodes = `${API_PREFIX.ops}/nodes`;
const tags = ["fleet"];
const nodeParams = z.object({ nodeId: idSchema("node") });
const common = { ...secured("fleet.node.manage"), tags } as const;
const responses = { 200: jsonAnswer(nodeSchema, "The host now."), ...PROBLEMS };

const ACTION_SUMMARIES: Readonly<Record<Exclude<NodeAction, "drain">, string>> = {
  cordon: "Place nothing new on a host; ends a drain or a quarantine",
  uncordon: "Place slices on a host again; calls a drain off",
  quarantine: "Place nothing new on a host because something is wrong with it",
  retire: "Take an empty host out of the fleet; final",
  freeze: "Refuse a host until it is unfrozen",
  unfreeze: "Let the right copy of a frozen host in again; it stays cordoned",
  revoke: "Refuse a host from now on; final",
};

/** What operators do to hosts. */
export function addActions(api: OpenAPIHono<PublicEnv>, deps: ActionDeps): void {
  for (const action of Object.keys(ACTION_SUMMARIES) as (keyof typeof ACTION_SUMMARIES)[]) {
    const route = createRoute({
      ...common,
      method: "post",
      path: `${nodes}/{nodeId}/${action}`,
      operationId: `${action}Node`,
      summary: ACTION_SUMMARIES[action],
      // Older callers send no body.
      request: { params: nodeParams, body: { ...jsonBody(nodeReasonSchema), required: false as const } },
      responses,
    });
    api.openapi(route, async (c) => {
      const { reason = null } = c.req.valid("json");
      return c.json(await changeNodeState(deps, changeOf(c, { action, reason, drain: null })), 200);
    });
  }
  addDrain(api, deps);
  addLabels(api, deps);
  addSlotReturn(api, deps);
}

function addDrain(api: OpenAPIHono<PublicEnv>, deps: ActionDeps): void {
  const drain = createRoute({
    ...common,
    method: "post",
    path: `${nodes}/{nodeId}/drain`,
    operationId: "drainNode",
    summary: "Empty a host",
    description:
      "Nothing new is placed on it. `wait`: until tenants have given their slices back. `stop`: what is left after the notice is given back for them. Empty, the host is cordoned. Asking again changes the terms; uncordon calls it off.",
    request: { params: nodeParams, body: jsonBody(nodeDrainSchema) },
    responses,
  });
  api.openapi(drain, async (c) => {
    const { reason = null, ...terms } = c.req.valid("json");
    return c.json(await changeNodeState(deps, changeOf(c, { action: "drain", reason, drain: terms })), 200);
  });
}

function addLabels(api: OpenAPIHono<PublicEnv>, deps: ActionDeps): void {
  const label = createRoute({
    ...common,
    method: "post",
    path: `${nodes}/{nodeId}/labels`,
    operationId: "labelNode",
    summary: "Set and take away labels of a host",
    request: { params: nodeParams, body: jsonBody(nodeLabelsSchema) },
    responses,
  });
  api.openapi(label, async (c) => {
    const { labels } = c.req.valid("json");
    const change = { nodeId: nodeIdOf(c), labels, actor: c.var.principal.id, requestId: c.var.requestId };
    return c.json(await labelNode(deps, change), 200);
  });
}

function addSlotReturn(api: OpenAPIHono<PublicEnv>, deps: ActionDeps): void {
  const params = nodeParams.extend({ gpuUuid: z.string().regex(/^[!-~]{1,96}$/) });
  const route = createRoute({
    ...common,
    method: "post",
    path: `${nodes}/{nodeId}/slots/{gpuUuid}/return`,
    operationId: "returnSlot",
    summary: "Put a quarantined GPU slot back into service",
    description: "For a slot whose host could not prove it clean, on the word of whoever has looked at it.",
    request: { params, body: jsonBody(slotReturnSchema) },
    responses,
  });
  api.openapi(route, async (c) => {
    const { gpuUuid } = c.req.valid("param");
    const { reason } = c.req.valid("json");
    const by = { actor: c.var.principal.id, requestId: c.var.requestId };
    return c.json(await returnSlot(deps, { nodeId: nodeIdOf(c), gpuUuid, reason, ...by }), 200);
  });
}

function changeOf<Rest extends { readonly action: NodeAction; readonly drain: DrainWish | null }>(
  c: Context<PublicEnv>,
  rest: Rest,
) {
  return { nodeId: nodeIdOf(c), actor: c.var.principal.id, requestId: c.var.requestId, ...rest };
}

function nodeIdOf(c: Context<PublicEnv>): string {
  return nodeParams.parse(c.req.param()).nodeId;
}
