import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import { receiptListSchema, slotReceiptsSchema } from "@hostler/shared/api/receipts.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import { requireAllocation } from "../allocations/read-allocation.ts";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readReceiptsOfSlice, readReceiptsOfSlots } from "./read-receipts.ts";

/** What hosts prove that they did with what was given back: tenants see it of their slices, operators of their slots. */
export function receiptRoutes(deps: Pick<Deps, "sql">): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const ofSlice = createRoute({
    ...secured("compute.allocation.read"),
    method: "get",
    path: `${API_PREFIX.tenant}/allocations/{allocationId}/receipts`,
    operationId: "listReceipts",
    summary: "Show the signed receipts of a slice that was given back, newest first",
    description: "Kept as long as the history of tasks, 90 days.",
    tags: ["compute"],
    request: { params: z.object({ allocationId: idSchema("allocation") }) },
    responses: { 200: jsonAnswer(receiptListSchema, "The receipts."), ...PROBLEMS },
  });
  api.openapi(ofSlice, async (c) => {
    const { id } = await requireAllocation(deps.sql, {
      id: c.req.valid("param").allocationId,
      principal: c.var.principal,
      permission: "compute.allocation.read",
    });
    return c.json({ items: await readReceiptsOfSlice(deps.sql, id) }, 200);
  });
  const ofSlots = createRoute({
    ...secured("fleet.node.read"),
    method: "get",
    path: `${API_PREFIX.ops}/nodes/{nodeId}/receipts`,
    operationId: "listSlotReceipts",
    summary: "Show the last signed receipt of each GPU slot of a host",
    tags: ["fleet"],
    request: { params: z.object({ nodeId: idSchema("node") }) },
    responses: { 200: jsonAnswer(slotReceiptsSchema, "The slots with their receipts."), ...PROBLEMS },
  });
  api.openapi(ofSlots, async (c) => c.json(await readReceiptsOfSlots(deps.sql, c.req.valid("param").nodeId), 200));
  return api;
}
