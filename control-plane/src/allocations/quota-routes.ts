import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { quotaChangeSchema, quotaReportSchema, type Quota, type QuotaReport } from "@hostler/shared/api/allocations.ts";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import { insertAuditRow } from "../audit/store.ts";
import type { Queryable } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { jsonAnswer, jsonBody, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { requireInProject } from "../identity/permissions.ts";
import { isProject, readQuota, readUsage, saveQuota } from "./quota-store.ts";

const { ops, tenant } = API_PREFIX;
const tags = ["compute"];
const params = z.object({ projectId: idSchema("project") });
const UNLIMITED: Quota = { gpus: null, vcpus: null, memoryMib: null, allocations: null };

const RESPONSES = { 200: jsonAnswer(quotaReportSchema, "The quota and its use."), ...PROBLEMS };

/** What a project may hold at most. */
export function addQuotas(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql">): void {
  const set = createRoute({
    ...secured("identity.project.manage"),
    method: "post",
    path: `${ops}/projects/{projectId}/quota`,
    operationId: "setQuota",
    summary: "Limit what a project may hold",
    description: "Limits that are not named stay, null takes one away. What a project holds already stays with it.",
    tags,
    request: { params, body: jsonBody(quotaChangeSchema) },
    responses: RESPONSES,
  });
  api.openapi(set, async (c) => {
    const { projectId } = c.req.valid("param");
    const change = c.req.valid("json");
    const report = await inTransaction(deps.sql, async (tx) => {
      if (!(await isProject(tx, projectId))) throw new AppError("not_found");
      const named = Object.fromEntries(Object.entries(change).filter(([, limit]) => limit !== undefined));
      const quota = { ...UNLIMITED, ...(await readQuota(tx, projectId)), ...named };
      await saveQuota(tx, projectId, quota);
      await insertAuditRow(tx, {
        actor: c.var.principal.id,
        action: "project.quota_set",
        targetId: projectId,
        targetVersion: null,
        outcome: "succeeded",
        requestId: c.var.requestId,
        detail: { quota },
      });
      return await reportOf(tx, projectId);
    });
    return c.json(report, 200);
  });
  const get = createRoute({
    ...secured("identity.project.manage"),
    method: "get",
    path: `${ops}/projects/{projectId}/quota`,
    operationId: "getProjectQuota",
    summary: "Show what a project may hold and holds, to operators",
    tags,
    request: { params },
    responses: RESPONSES,
  });
  api.openapi(get, async (c) => {
    const { projectId } = c.req.valid("param");
    if (!(await isProject(deps.sql, projectId))) throw new AppError("not_found");
    return c.json(await reportOf(deps.sql, projectId), 200);
  });
  addOwnQuota(api, deps);
}

function addOwnQuota(api: OpenAPIHono<PublicEnv>, deps: Pick<Deps, "sql">): void {
  const own = createRoute({
    ...secured("compute.allocation.read"),
    method: "get",
    path: `${tenant}/projects/{projectId}/quota`,
    operationId: "getQuota",
    summary: "Show what a project may hold and holds",
    tags,
    request: { params },
    responses: RESPONSES,
  });
  api.openapi(own, async (c) => {
    const { projectId } = c.req.valid("param");
    requireInProject(c.var.principal, "compute.allocation.read", projectId);
    return c.json(await reportOf(deps.sql, projectId), 200);
  });
}

async function reportOf(db: Queryable, projectId: string): Promise<QuotaReport> {
  return {
    projectId,
    quota: (await readQuota(db, projectId)) ?? UNLIMITED,
    usage: await readUsage(db, projectId),
  };
}
