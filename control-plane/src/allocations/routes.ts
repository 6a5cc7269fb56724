import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import {
  allocationCreateSchema,
  allocationOperationSchema,
  allocationSchema,
  phaseListSchema,
} from "@hostler/shared/api/allocations.ts";
import { API_PREFIX, pageOf, pageQuerySchema } from "@hostler/shared/api/common.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import {
  idempotencyHeader,
  jsonAnswer,
  jsonBody,
  newApi,
  PROBLEMS,
  secured,
  securedOnceInTransaction,
} from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readPage } from "../http/pagination.ts";
import { requireInProject } from "../identity/permissions.ts";
import { getOperation } from "../operations/operations.ts";
import { readOperationEvents } from "../tasks/read-phase-events.ts";
import { createAllocation, type CreateDeps } from "./create-allocation.ts";
import { addGroups } from "./group-routes.ts";
import { addQuotas } from "./quota-routes.ts";
import { phaseViews } from "./model.ts";
import { getAllocation, requireAllocation } from "./read-allocation.ts";
import type { makeReleases } from "./release-allocation.ts";
import { readAllocationViews } from "./store.ts";

type AllocationDeps = Pick<Deps, "sql"> & CreateDeps & { readonly release: ReturnType<typeof makeReleases> };

const { tenant, common } = API_PREFIX;
const tags = ["compute"];
const projectParams = z.object({ projectId: idSchema("project") });
const allocationParams = z.object({ allocationId: idSchema("allocation") });

/** Slices, as tenants ask for them. */
export function allocationRoutes(deps: AllocationDeps): OpenAPIHono<PublicEnv> {
  const api = newApi();
  addCreate(api, deps);
  addReads(api, deps);
  addRelease(api, deps.release);
  addGroups(api, deps);
  addQuotas(api, deps);
  return api;
}

function addCreate(api: OpenAPIHono<PublicEnv>, deps: AllocationDeps): void {
  const create = createRoute({
    ...securedOnceInTransaction("compute.allocation.create", 202),
    method: "post",
    path: `${tenant}/projects/{projectId}/allocations`,
    operationId: "createAllocation",
    summary: "Ask for a slice",
    description:
      "Answers at once; the operation tells when the slice is active. With nothing free: 409 capacity_unavailable, saying what is free and where.",
    tags,
    request: { params: projectParams, headers: idempotencyHeader, body: jsonBody(allocationCreateSchema) },
    responses: { 202: jsonAnswer(allocationOperationSchema, "Accepted."), ...PROBLEMS },
  });
  api.openapi(create, async (c) => {
    const { projectId } = c.req.valid("param");
    const made = await createAllocation(deps, {
      principal: c.var.principal,
      projectId,
      requestId: c.var.requestId,
      once: c.var.once,
      wish: c.req.valid("json"),
    });
    c.header("location", `${common}/operations/${made.operation.id}`);
    return c.json(made, 202);
  });
}

function addReads(api: OpenAPIHono<PublicEnv>, deps: AllocationDeps): void {
  const list = createRoute({
    ...secured("compute.allocation.read"),
    method: "get",
    path: `${tenant}/projects/{projectId}/allocations`,
    operationId: "listAllocations",
    summary: "List the slices of a project, newest first",
    tags,
    request: { params: projectParams, query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(allocationSchema, "Allocation"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const { projectId } = c.req.valid("param");
    requireInProject(c.var.principal, "compute.allocation.read", projectId);
    const page = await readPage(
      c.req.valid("query"),
      async (at) => await readAllocationViews(deps.sql, { ids: null, projectId, ...at }),
    );
    return c.json(page, 200);
  });
  const get = createRoute({
    ...secured("compute.allocation.read"),
    method: "get",
    path: `${tenant}/allocations/{allocationId}`,
    operationId: "getAllocation",
    summary: "Show a slice",
    tags,
    request: { params: allocationParams },
    responses: { 200: jsonAnswer(allocationSchema, "The slice."), ...PROBLEMS },
  });
  api.openapi(get, async (c) => {
    const { id } = await requireAllocation(deps.sql, {
      id: c.req.valid("param").allocationId,
      principal: c.var.principal,
      permission: "compute.allocation.read",
    });
    return c.json(await getAllocation(deps.sql, id), 200);
  });
  const phases = createRoute({
    ...secured("compute.allocation.read"),
    method: "get",
    path: `${tenant}/allocations/{allocationId}/phases`,
    operationId: "listPhases",
    summary: "Show the phases of a slice's operation in progress, or of its last one",
    tags,
    request: { params: allocationParams },
    responses: { 200: jsonAnswer(phaseListSchema, "The phases in order."), ...PROBLEMS },
  });
  api.openapi(phases, async (c) => {
    const row = await requireAllocation(deps.sql, {
      id: c.req.valid("param").allocationId,
      principal: c.var.principal,
      permission: "compute.allocation.read",
    });
    const operation = await getOperation(deps.sql, row.operationId);
    const { kind, events } = await readOperationEvents(deps.sql, row.operationId);
    return c.json({ operation, phases: phaseViews(kind, events) }, 200);
  });
}

function addRelease(api: OpenAPIHono<PublicEnv>, releaseTogether: ReturnType<typeof makeReleases>): void {
  const release = createRoute({
    ...secured("compute.allocation.release"),
    method: "post",
    path: `${tenant}/allocations/{allocationId}/release`,
    operationId: "releaseAllocation",
    summary: "Give a slice back",
    description:
      "Asking again answers with the operation in progress. A slice that is being built is cancelled and undone.",
    tags,
    request: { params: allocationParams },
    responses: { 202: jsonAnswer(allocationOperationSchema, "Accepted."), ...PROBLEMS },
  });
  api.openapi(release, async (c) => {
    const { allocationId } = c.req.valid("param");
    const answer = await releaseTogether({
      principal: c.var.principal,
      allocationId,
      requestId: c.var.requestId,
    });
    c.header("location", `${common}/operations/${answer.operation.id}`);
    return c.json(answer, 202);
  });
}
