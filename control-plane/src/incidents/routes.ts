import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, pageOf } from "@hostler/shared/api/common.ts";
import { INCIDENT_STATES, incidentQuerySchema, incidentSchema } from "@hostler/shared/api/incidents.ts";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readPage } from "../http/pagination.ts";
import { readIncidents } from "./store.ts";

const LIVE = INCIDENT_STATES.filter((state) => state !== "closed");

/** What is wrong, for operators. */
export function incidentRoutes(deps: Pick<Deps, "sql">): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const list = createRoute({
    ...secured("fleet.node.read"),
    method: "get",
    path: `${API_PREFIX.ops}/incidents`,
    operationId: "listIncidents",
    summary: "List incidents, the newest first",
    tags: ["fleet"],
    request: { query: incidentQuerySchema },
    responses: { 200: jsonAnswer(pageOf(incidentSchema, "Incident"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const { state, ...query } = c.req.valid("query");
    const states = state === "live" ? LIVE : INCIDENT_STATES;
    const page = await readPage(query, async (at) => await readIncidents(deps.sql, { states, ...at }));
    return c.json(page, 200);
  });
  return api;
}
