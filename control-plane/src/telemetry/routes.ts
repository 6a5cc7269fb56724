import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import { telemetrySeriesSchema } from "@hostler/shared/api/nodes.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import { requireAllocation } from "../allocations/read-allocation.ts";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readSamples } from "./store.ts";

const SAMPLES_MAX = 1000;
const query = z.strictObject({ sinceSeconds: z.coerce.number().int().min(1).max(604_800).default(600) });

/** Samples of hosts for operators, of a slice's own GPUs for its tenant. */
export function telemetryRoutes(deps: Pick<Deps, "sql">): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const ofNode = createRoute({
    ...secured("fleet.telemetry.read"),
    method: "get",
    path: `${API_PREFIX.ops}/nodes/{nodeId}/telemetry`,
    operationId: "getNodeTelemetry",
    summary: "Samples of a host and its GPUs",
    tags: ["telemetry"],
    request: { params: z.object({ nodeId: idSchema("node") }), query },
    responses: { 200: jsonAnswer(telemetrySeriesSchema, "Oldest first."), ...PROBLEMS },
  });
  api.openapi(ofNode, async (c) => {
    const { nodeId } = c.req.valid("param");
    return c.json(
      { nodeId, samples: await readSamples(deps.sql, { nodeId, limit: SAMPLES_MAX, ...c.req.valid("query") }) },
      200,
    );
  });
  const ofAllocation = createRoute({
    ...secured("compute.telemetry.read"),
    method: "get",
    path: `${API_PREFIX.tenant}/allocations/{allocationId}/telemetry`,
    operationId: "getAllocationTelemetry",
    summary: "Samples of a slice's GPUs",
    tags: ["telemetry"],
    request: { params: z.object({ allocationId: idSchema("allocation") }), query },
    responses: { 200: jsonAnswer(telemetrySeriesSchema, "Oldest first."), ...PROBLEMS },
  });
  api.openapi(ofAllocation, async (c) => {
    const allocation = await requireAllocation(deps.sql, {
      id: c.req.valid("param").allocationId,
      principal: c.var.principal,
      permission: "compute.telemetry.read",
    });
    const own = new Set(allocation.gpus.map((gpu) => gpu.uuid));
    const samples = await readSamples(deps.sql, {
      nodeId: allocation.nodeId,
      limit: SAMPLES_MAX,
      ...c.req.valid("query"),
    });
    return c.json(
      {
        nodeId: allocation.nodeId,
        samples: samples.map((sample) => ({ ...sample, gpus: sample.gpus.filter((gpu) => own.has(gpu.uuid)) })),
      },
      200,
    );
  });
  return api;
}
