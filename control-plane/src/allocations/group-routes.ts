import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import {
  allocationGroupCreateSchema,
  allocationGroupSchema,
  placementExplanationSchema,
  placementQuestionSchema,
} from "@hostler/shared/api/allocations.ts";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import { idSchema } from "@hostler/shared/ids.ts";
import * as z from "zod";
import type { Deps } from "../deps.ts";
import {
  idempotencyHeader,
  jsonAnswer,
  jsonBody,
  PROBLEMS,
  secured,
  securedOnceInTransaction,
} from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { requireInProject } from "../identity/permissions.ts";
import { createAllocationGroup, type CreateDeps } from "./create-allocation.ts";
import { explainPlacement } from "./explain-placement.ts";
import { releaseGroup, type makeReleases } from "./release-allocation.ts";

const project = `${API_PREFIX.tenant}/projects/{projectId}`;
const tags = ["compute"];
const params = z.object({ projectId: idSchema("project") });

type GroupDeps = Pick<Deps, "sql"> & CreateDeps & { readonly release: ReturnType<typeof makeReleases> };

/** Slices that are placed together and given back together, and why a request is not placed. */
export function addGroups(api: OpenAPIHono<PublicEnv>, deps: GroupDeps): void {
  const create = createRoute({
    ...securedOnceInTransaction("compute.allocation.create", 202),
    method: "post",
    path: `${project}/allocation-groups`,
    operationId: "createAllocationGroup",
    summary: "Ask for several slices at once, all or none",
    description:
      "Each is a slice of its own from then on. Without room for all of them: 409 capacity_unavailable, saying of each host why.",
    tags,
    request: { params, headers: idempotencyHeader, body: jsonBody(allocationGroupCreateSchema) },
    responses: { 202: jsonAnswer(allocationGroupSchema, "Accepted."), ...PROBLEMS },
  });
  api.openapi(create, async (c) => {
    const { projectId } = c.req.valid("param");
    const { principal, requestId, once } = c.var;
    const group = c.req.valid("json");
    return c.json(await createAllocationGroup(deps, { principal, projectId, requestId, once, group }), 202);
  });
  const release = createRoute({
    ...secured("compute.allocation.release"),
    method: "post",
    path: `${API_PREFIX.tenant}/allocation-groups/{groupId}/release`,
    operationId: "releaseAllocationGroup",
    summary: "Give all slices of a group back",
    description: "As giving each of them back. Asking again is fine; slices that have ended stay as they are.",
    tags,
    request: { params: z.object({ groupId: idSchema("allocationGroup") }) },
    responses: { 202: jsonAnswer(allocationGroupSchema, "Accepted."), ...PROBLEMS },
  });
  api.openapi(release, async (c) => {
    const { groupId } = c.req.valid("param");
    const { principal, requestId } = c.var;
    return c.json(await releaseGroup(deps, { principal, groupId, requestId }), 202);
  });
  const explain = createRoute({
    ...secured("compute.allocation.create"),
    method: "post",
    path: `${project}/placement-explanations`,
    operationId: "explainPlacement",
    summary: "Say whether a request would be placed now, and why not",
    description: "Takes nothing: what is free may be gone a moment later.",
    tags,
    request: { params, body: jsonBody(placementQuestionSchema) },
    responses: { 200: jsonAnswer(placementExplanationSchema, "Each host with its reason."), ...PROBLEMS },
  });
  api.openapi(explain, async (c) => {
    const { projectId } = c.req.valid("param");
    requireInProject(c.var.principal, "compute.allocation.create", projectId);
    const { count, template } = c.req.valid("json");
    return c.json(await explainPlacement(deps, { projectId, count, template }), 200);
  });
}
