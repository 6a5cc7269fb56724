import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, operationSchema } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import { isFinal, OPERATION_TRANSITIONS } from "@hostler/shared/states.ts";
import * as z from "zod";
import { operationTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { mayDo, requireInProject } from "../identity/permissions.ts";
import { getOperation } from "./operations.ts";

const RECHECK_MS = 2000;

/** Long work, for whoever waits for it. */
export function operationRoutes(deps: Pick<Deps, "sql" | "clock" | "wake">): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const get = createRoute({
    ...secured("authenticated"),
    method: "get",
    path: `${API_PREFIX.common}/operations/{operationId}`,
    operationId: "getOperation",
    summary: "Show an operation, or wait for its end",
    description:
      "With waitSeconds the answer comes when the operation has ended, or after that time with its state then.",
    tags: ["operations"],
    request: {
      params: z.object({ operationId: idSchema("operation") }),
      query: z.strictObject({ waitSeconds: z.coerce.number().int().min(0).max(25).default(0) }),
    },
    responses: { 200: jsonAnswer(operationSchema, "The operation."), ...PROBLEMS },
  });
  api.openapi(get, async (c) => {
    const { operationId } = c.req.valid("param");
    const deadlineMs = deps.clock.monotonicMs() + c.req.valid("query").waitSeconds * 1000;
    for (;;) {
      const operation = await getOperation(deps.sql, operationId);
      if (operation.projectId !== null)
        requireInProject(c.var.principal, "compute.allocation.read", operation.projectId);
      else if (!mayDo(c.var.principal, "fleet.node.read", null)) throw new AppError("not_found");
      const leftMs = deadlineMs - deps.clock.monotonicMs();
      if (isFinal(OPERATION_TRANSITIONS, operation.state) || leftMs <= 0) return c.json(operation, 200);
      await deps.wake.wait(operationTopic(operationId), Math.min(leftMs, RECHECK_MS), c.req.raw.signal);
    }
  });
  return api;
}
