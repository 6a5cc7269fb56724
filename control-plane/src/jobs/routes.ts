import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX, operationSchema, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import { jobSchema, type Job } from "@hostler/shared/api/jobs.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import { JOB_STATES } from "@hostler/shared/states.ts";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import { idempotencyHeader, jsonAnswer, newApi, PROBLEMS, secured, securedOnce } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { decodeCursor, pageOfRows } from "../http/pagination.ts";
import type { JobKind } from "./job-kind.ts";
import { redriveJob } from "./redrive-job.ts";
import { readJobs, type JobRow } from "./store.ts";

const tags = ["operations"];

/** How the control plane's own work is run, for operators. What it does and where it stands is its operation. */
export function jobRoutes(
  deps: Pick<Deps, "sql" | "clock" | "wake"> & { readonly kinds: readonly JobKind[] },
): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const list = createRoute({
    ...secured("platform.operation.read"),
    method: "get",
    path: `${API_PREFIX.ops}/jobs`,
    operationId: "listJobs",
    summary: "List the control plane's own work, newest first",
    description: "With state=dead, the dead letters: jobs that lost their worker in one step again and again.",
    tags,
    request: { query: pageQuerySchema.extend({ state: z.enum(JOB_STATES).optional() }) },
    responses: { 200: jsonAnswer(pageOf(jobSchema, "Job"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const { limit, cursor, state } = c.req.valid("query");
    const rows = await readJobs(deps.sql, { state, after: decodeCursor(cursor), limit: limit + 1 });
    return c.json(
      pageOfRows(rows.map(viewOf), limit, (row) => row.operationId),
      200,
    );
  });
  const redrive = createRoute({
    ...securedOnce("platform.operation.manage"),
    method: "post",
    path: `${API_PREFIX.ops}/jobs/{operationId}/redrive`,
    operationId: "redriveJob",
    summary: "Do a dead or failed job again, as a new operation",
    description: "Steps that ended are not done again.",
    tags,
    request: { params: z.object({ operationId: idSchema("operation") }), headers: idempotencyHeader },
    responses: { 202: jsonAnswer(operationSchema, "The new operation."), ...PROBLEMS },
  });
  api.openapi(redrive, async (c) => {
    const { principal, requestId } = c.var;
    const { operationId } = c.req.valid("param");
    const operation = await redriveJob(deps, { operationId, actor: principal.id, requestId });
    c.header("location", `${API_PREFIX.common}/operations/${operation.id}`);
    return c.json(operation, 202);
  });
  return api;
}

function viewOf(row: JobRow): Job {
  return { ...row, runAt: row.runAt.toISOString(), endedAt: row.endedAt?.toISOString() ?? null };
}
