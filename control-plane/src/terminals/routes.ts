import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import { terminalCreatedSchema, terminalCreateSchema } from "@hostler/shared/api/terminals.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import { idempotencyHeader, jsonAnswer, jsonBody, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { browserSocket, type BrowserSocketDeps } from "./browser-socket.ts";
import { openTerminal } from "./open-terminal.ts";

/** Terminals: the ticket over HTTP, then the socket that it opens. */
export function terminalRoutes(deps: BrowserSocketDeps): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const open = createRoute({
    ...secured("compute.terminal.open"),
    method: "post",
    path: `${API_PREFIX.tenant}/allocations/{allocationId}/terminals`,
    operationId: "openTerminal",
    summary: "Ask for a terminal in a slice",
    description:
      "Answers with a ticket that opens one WebSocket within 30 seconds. Not idempotent: each call makes another ticket.",
    tags: ["terminals"],
    request: {
      params: z.object({ allocationId: idSchema("allocation") }),
      headers: idempotencyHeader,
      body: jsonBody(terminalCreateSchema),
    },
    responses: { 201: jsonAnswer(terminalCreatedSchema, "The ticket."), ...PROBLEMS },
  });
  api.openapi(open, async (c) => {
    const origin = c.req.header("origin") ?? null;
    const { allocationId } = c.req.valid("param");
    const request = {
      principal: c.var.principal,
      allocationId,
      origin,
      requestId: c.var.requestId,
      ...c.req.valid("json"),
    };
    return c.json(await openTerminal(deps, request), 201);
  });
  api.get(`${API_PREFIX.tenant}/terminals/:terminalId/socket`, browserSocket(deps));
  return api;
}
