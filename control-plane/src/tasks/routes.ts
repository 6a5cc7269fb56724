import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { allocationOperationSchema } from "@hostler/shared/api/allocations.ts";
import { API_PREFIX, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import { deadTaskSchema, type DeadTaskView } from "@hostler/shared/api/tasks.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readPage } from "../http/pagination.ts";
import { listDeadTasks, type DeadTask } from "./history-store.ts";
import { redriveTask } from "./redrive-task.ts";

const PATH = `${API_PREFIX.ops}/dead-tasks`;
const tags = ["fleet"];

/** Tasks that nobody tries again by itself, for operators. */
export function taskRoutes(deps: Pick<Deps, "sql" | "clock" | "wake">): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const list = createRoute({
    ...secured("fleet.node.read"),
    method: "get",
    path: PATH,
    operationId: "listDeadTasks",
    summary: "List the tasks that lost their host too often, newest first",
    tags,
    request: { query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(deadTaskSchema, "DeadTask"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const page = await readPage(c.req.valid("query"), async (at) => (await listDeadTasks(deps.sql, at)).map(viewOf));
    return c.json(page, 200);
  });
  const redrive = createRoute({
    ...secured("fleet.node.manage"),
    method: "post",
    path: `${PATH}/{taskId}/redrive`,
    operationId: "redriveTask",
    summary: "Try a dead release again",
    tags,
    request: { params: z.object({ taskId: idSchema("task") }) },
    responses: { 200: jsonAnswer(allocationOperationSchema, "The allocation and its new operation."), ...PROBLEMS },
  });
  api.openapi(redrive, async (c) => {
    const { principal, requestId } = c.var;
    return c.json(await redriveTask(deps, { principal, requestId, taskId: c.req.valid("param").taskId }), 200);
  });
  return api;
}

function viewOf({ attempt, endedAt, redrivenAt, ...row }: DeadTask): DeadTaskView {
  return { ...row, attempts: attempt, endedAt: endedAt.toISOString(), redrivenAt: redrivenAt?.toISOString() ?? null };
}
