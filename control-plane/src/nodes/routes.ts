import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import {
  bootstrapTokenCreatedSchema,
  bootstrapTokenCreateSchema,
  bootstrapTokenSchema,
  nodeSchema,
  recoveryAllowanceSchema,
  restoreDeclarationSchema,
} from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import { formatBootstrapToken, hashSecret, makeBootstrapToken } from "@hostler/pki";
import type { Context } from "hono";
import * as z from "zod";
import { insertAuditRow } from "../audit/store.ts";
import { idempotencyHeader, jsonAnswer, jsonBody, newApi, PROBLEMS, secured, securedOnce } from "../http/api-route.ts";
import type { Deps } from "../deps.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { PublicEnv } from "../http/env.ts";
import { readPage } from "../http/pagination.ts";
import { addActions } from "./action-routes.ts";
import type { EnrolDeps } from "./enrol-node.ts";
import { allowRecoveries } from "./recovery-store.ts";
import { expectRestore } from "./session-store.ts";
import { readNodes } from "./store.ts";
import { insertToken, listTokens, revokeToken } from "./token-store.ts";

export interface NodeRoutesDeps extends EnrolDeps, Pick<Deps, "wake"> {
  /** Host and port of the enrol listener for somebody who reached us as `requestHost`. */
  enrolListenerFor(requestHost: string): string;
}

const { ops } = API_PREFIX;
const tags = ["fleet"];
const nodeParams = z.object({ nodeId: idSchema("node") });

/** Hosts and the tokens that let them in. */
export function nodeRoutes(deps: NodeRoutesDeps): OpenAPIHono<PublicEnv> {
  const api = newApi();
  addTokenCreate(api, deps);
  addTokenList(api, deps);
  addNodes(api, deps);
  addActions(api, deps);
  addDeclarations(api, deps);
  return api;
}

function addTokenCreate(api: OpenAPIHono<PublicEnv>, deps: NodeRoutesDeps): void {
  const create = createRoute({
    ...securedOnce("fleet.token.manage", { hasSecret: true }),
    method: "post",
    path: `${ops}/bootstrap-tokens`,
    operationId: "createBootstrapToken",
    summary: "Make a bootstrap token",
    description:
      "The token is in this answer and never shown again; a repetition with the same Idempotency-Key is refused.",
    tags,
    request: { headers: idempotencyHeader, body: jsonBody(bootstrapTokenCreateSchema) },
    responses: { 201: jsonAnswer(bootstrapTokenCreatedSchema, "Made."), ...PROBLEMS },
  });
  api.openapi(create, async (c) => {
    const body = c.req.valid("json");
    const token = makeBootstrapToken(deps.pki.authority.pin);
    const actor = c.var.principal.id;
    const row = {
      action: "bootstrap_token.created",
      targetId: token.id,
      targetVersion: null,
      outcome: "succeeded",
    } as const;
    const made = await inTransaction(deps.sql, async (tx) => {
      await insertAuditRow(tx, { ...row, actor, requestId: c.var.requestId, detail: body });
      return await insertToken(tx, { id: token.id, secretHash: hashSecret(token.secret), createdBy: actor, ...body });
    });
    const server = deps.enrolListenerFor(c.req.header("host") ?? "");
    const text = formatBootstrapToken(token);
    return c.json(
      {
        ...made,
        token: text,
        enrolUrl: `https://${server}`,
        command: `hostler-agent enroll --server ${server} --token ${text}`,
      },
      201,
    );
  });
}

function addTokenList(api: OpenAPIHono<PublicEnv>, deps: NodeRoutesDeps): void {
  const list = createRoute({
    ...secured("fleet.token.manage"),
    method: "get",
    path: `${ops}/bootstrap-tokens`,
    operationId: "listBootstrapTokens",
    summary: "List bootstrap tokens",
    tags,
    request: { query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(bootstrapTokenSchema, "BootstrapToken"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const page = await readPage(c.req.valid("query"), async (at) => await listTokens(deps.sql, at));
    return c.json(page, 200);
  });
  const revoke = createRoute({
    ...secured("fleet.token.manage"),
    method: "delete",
    path: `${ops}/bootstrap-tokens/{tokenId}`,
    operationId: "revokeBootstrapToken",
    summary: "Revoke an unused bootstrap token",
    tags,
    request: { params: z.object({ tokenId: z.string().regex(/^[0-9a-z]{10}$/) }) },
    responses: { 204: { description: "Revoked." }, ...PROBLEMS },
  });
  api.openapi(revoke, async (c) => {
    const { tokenId } = c.req.valid("param");
    const row = {
      action: "bootstrap_token.revoked",
      targetId: tokenId,
      targetVersion: null,
      outcome: "succeeded",
      detail: {},
    } as const;
    await inTransaction(deps.sql, async (tx) => {
      if (!(await revokeToken(tx, tokenId)))
        throw new AppError("not_found", { detail: "There is no unused token with this id." });
      await insertAuditRow(tx, { ...row, actor: c.var.principal.id, requestId: c.var.requestId });
    });
    return c.body(null, 204);
  });
}

function addNodes(api: OpenAPIHono<PublicEnv>, deps: NodeRoutesDeps): void {
  const list = createRoute({
    ...secured("fleet.node.read"),
    method: "get",
    path: `${ops}/nodes`,
    operationId: "listNodes",
    summary: "List hosts with their GPU slots",
    tags,
    request: { query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(nodeSchema, "Node"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const page = await readPage(c.req.valid("query"), async (at) => await readNodes(deps.sql, { id: null, ...at }));
    return c.json(page, 200);
  });
  const get = createRoute({
    ...secured("fleet.node.read"),
    method: "get",
    path: `${ops}/nodes/{nodeId}`,
    operationId: "getNode",
    summary: "Show a host",
    tags,
    request: { params: nodeParams },
    responses: { 200: jsonAnswer(nodeSchema, "The host."), ...PROBLEMS },
  });
  api.openapi(get, async (c) => {
    const [node] = await readNodes(deps.sql, { id: c.req.valid("param").nodeId, after: null, limit: 1 });
    if (node === undefined) throw new AppError("not_found");
    return c.json(node, 200);
  });
}

/** What an operator says about a host beforehand: that it was restored, that it may come back more often. */
function addDeclarations(api: OpenAPIHono<PublicEnv>, deps: NodeRoutesDeps): void {
  const common = { ...secured("fleet.node.manage"), method: "post", tags } as const;
  const responses = { 204: { description: "Noted." }, ...PROBLEMS };
  const restore = createRoute({
    ...common,
    path: `${ops}/nodes/{nodeId}/restore`,
    operationId: "declareNodeRestore",
    summary: "Say that a host is restored from a backup, so that it is not taken for a copy",
    request: { params: nodeParams, body: jsonBody(restoreDeclarationSchema) },
    responses,
  });
  api.openapi(restore, async (c) => {
    const { ttlSeconds } = c.req.valid("json");
    await declare(
      deps,
      c,
      "node.restore_declared",
      { ttlSeconds },
      async (tx, id) => await expectRestore(tx, id, ttlSeconds),
    );
    return c.body(null, 204);
  });
  const allow = createRoute({
    ...common,
    path: `${ops}/nodes/{nodeId}/recoveries`,
    operationId: "allowNodeRecoveries",
    summary: "Let a host come back by its last key more often",
    request: { params: nodeParams, body: jsonBody(recoveryAllowanceSchema) },
    responses,
  });
  api.openapi(allow, async (c) => {
    const { more } = c.req.valid("json");
    await declare(deps, c, "node.recoveries_allowed", { more }, async (tx, id) => await allowRecoveries(tx, id, more));
    return c.body(null, 204);
  });
}

async function declare(
  deps: NodeRoutesDeps,
  c: Context<PublicEnv>,
  action: string,
  detail: Readonly<Record<string, unknown>>,
  write: (tx: Tx, nodeId: string) => Promise<boolean>,
): Promise<void> {
  const { nodeId } = nodeParams.parse(c.req.param());
  const row = {
    actor: c.var.principal.id,
    action,
    targetId: nodeId,
    targetVersion: null,
    outcome: "succeeded",
  } as const;
  await inTransaction(deps.sql, async (tx) => {
    if (!(await write(tx, nodeId))) throw new AppError("not_found");
    await insertAuditRow(tx, { ...row, requestId: c.var.requestId, detail });
  });
}
