import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { allocationOperationSchema } from "@hostler/shared/api/allocations.ts";
import { API_PREFIX, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import {
  deadTaskSchema,
  taskLogSchema,
  taskQuerySchema,
  taskSchema,
  type DeadTaskView,
} from "@hostler/shared/api/tasks.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import { jsonAnswer, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readPage } from "../http/pagination.ts";
import { listDeadTasks, type DeadTask } from "./history-store.ts";
import { listTasks, readTaskLog } from "./read-task-log.ts";
import { redriveTask } from "./redrive-task.ts";

const PATH = `${API_PREFIX.ops}/dead-tasks`;
const TASKS = `${API_PREFIX.ops}/tasks`;
const tags = ["fleet"];

/** What hosts do and did, for operators; and the tasks that nobody tries again by itself. */
export function taskRoutes(deps: Pick<Deps, "sql" | "clock" | "wake">): OpenAPIHono<PublicEnv> {
  const api = newApi();
  addDeadTasks(api, deps);
  addTaskLog(api, deps);
  return api;
}

function addDeadTasks(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql" | "clock" | "wake">): void {
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
}

/** Params of tasks hold what tenants gave (keys, user data) and are not shown. */
function addTaskLog(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql">): void {
  const list = createRoute({
    ...secured("fleet.node.read"),
    method: "get",
    path: TASKS,
    operationId: "listTasks",
    summary: "List a host's tasks in progress and those that failed there, or all tasks of a slice, newest first",
    tags,
    request: { query: taskQuerySchema },
    responses: { 200: jsonAnswer(pageOf(taskSchema, "Task"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const { nodeId, allocationId, ...query } = c.req.valid("query");
    const page = await readPage(query, async (at) => await listTasks(deps.sql, { nodeId, allocationId }, at));
    return c.json(page, 200);
  });
  const log = createRoute({
    ...secured("fleet.node.read"),
    method: "get",
    path: `${TASKS}/{taskId}/log`,
    operationId: "getTaskLog",
    summary: "Show the phases of a task as its host told them, with the programs that failing ones ran",
    tags,
    request: { params: z.object({ taskId: idSchema("task") }) },
    responses: { 200: jsonAnswer(taskLogSchema, "The log."), ...PROBLEMS },
  });
  api.openapi(log, async (c) => c.json(await readTaskLog(deps.sql, c.req.valid("param").taskId), 200));
}

function viewOf({ attempt, endedAt, redrivenAt, ...row }: DeadTask): DeadTaskView {
  return { ...row, attempts: attempt, endedAt: endedAt.toISOString(), redrivenAt: redrivenAt?.toISOString() ?? null };
}
