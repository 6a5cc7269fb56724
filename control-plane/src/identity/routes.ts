import { createRoute } from "@hono/zod-openapi";
import { API_PREFIX, pageOf, pageQuerySchema, whoamiSchema } from "@hostler/shared/api/common.ts";
import {
  apiKeyCreatedSchema,
  apiKeyCreateSchema,
  apiKeySchema,
  organizationCreateSchema,
  organizationSchema,
  projectCreateSchema,
  projectSchema,
} from "@hostler/shared/api/identity.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { idSchema, newId } from "@hostler/shared/ids.ts";
import type { OpenAPIHono } from "@hono/zod-openapi";
import * as z from "zod";
import { insertAuditRow } from "../audit/store.ts";
import { isUniqueViolation } from "../db/pool.ts";
import type { Deps } from "../deps.ts";
import { idempotencyHeader, jsonAnswer, jsonBody, newApi, PROBLEMS, secured, securedOnce } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readPage } from "../http/pagination.ts";
import { createApiKey } from "./create-api-key.ts";
import { permissionsOf } from "./permissions.ts";
import {
  insertOrganization,
  insertProject,
  listKeys,
  listOrganizations,
  listProjects,
  readProjects,
  revokeKey,
} from "./store.ts";

type IdentityDeps = Pick<Deps, "sql" | "clock">;

const { ops, common } = API_PREFIX;
const tags = ["identity"];

/** Organizations, projects, API keys, and who the caller is. */
export function identityRoutes(deps: IdentityDeps): OpenAPIHono<PublicEnv> {
  const api = newApi();
  addWhoami(api, deps);
  addOrganizations(api, deps);
  addProjects(api, deps);
  addKeys(api, deps);
  return api;
}

function addWhoami(api: OpenAPIHono<PublicEnv>, deps: IdentityDeps): void {
  const route = createRoute({
    ...secured("authenticated"),
    method: "get",
    path: `${common}/whoami`,
    operationId: "whoami",
    summary: "Who the key is and what it may do",
    tags,
    responses: { 200: jsonAnswer(whoamiSchema, "The caller."), ...PROBLEMS },
  });
  api.openapi(route, async (c) => {
    const { principal } = c.var;
    const projects = await readProjects(
      deps.sql,
      principal.bindings.flatMap((binding) => binding.projectId ?? []),
    );
    const bindings = principal.bindings.map((binding) => ({
      role: binding.role,
      scope: binding.projectId ?? "platform",
    }));
    return c.json(
      { principalId: principal.id, name: principal.name, permissions: permissionsOf(principal), bindings, projects },
      200,
    );
  });
}

function addOrganizations(api: OpenAPIHono<PublicEnv>, deps: IdentityDeps): void {
  const create = createRoute({
    ...securedOnce("identity.organization.manage"),
    method: "post",
    path: `${ops}/organizations`,
    operationId: "createOrganization",
    summary: "Make an organization",
    tags,
    request: { headers: idempotencyHeader, body: jsonBody(organizationCreateSchema) },
    responses: { 201: jsonAnswer(organizationSchema, "Made."), ...PROBLEMS },
  });
  api.openapi(create, async (c) => {
    const { name } = c.req.valid("json");
    const made = await insertOrganization(deps.sql, { id: newId("organization", deps.clock), name }).catch(
      refuseTakenName("organizations_name_key", name),
    );
    return c.json(made, 201);
  });
  const list = createRoute({
    ...secured("identity.organization.manage"),
    method: "get",
    path: `${ops}/organizations`,
    operationId: "listOrganizations",
    summary: "List organizations",
    tags,
    request: { query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(organizationSchema, "Organization"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const page = await readPage(c.req.valid("query"), async (at) => await listOrganizations(deps.sql, at));
    return c.json(page, 200);
  });
}

function addProjects(api: OpenAPIHono<PublicEnv>, deps: IdentityDeps): void {
  const create = createRoute({
    ...securedOnce("identity.project.manage"),
    method: "post",
    path: `${ops}/projects`,
    operationId: "createProject",
    summary: "Make a project",
    tags,
    request: { headers: idempotencyHeader, body: jsonBody(projectCreateSchema) },
    responses: { 201: jsonAnswer(projectSchema, "Made."), ...PROBLEMS },
  });
  api.openapi(create, async (c) => {
    const body = c.req.valid("json");
    const made = await insertProject(deps.sql, { id: newId("project", deps.clock), ...body }).catch(
      refuseTakenName("projects_organization_id_name_key", body.name),
    );
    return c.json(made, 201);
  });
  const list = createRoute({
    ...secured("identity.project.manage"),
    method: "get",
    path: `${ops}/projects`,
    operationId: "listProjects",
    summary: "List projects",
    tags,
    request: { query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(projectSchema, "Project"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const page = await readPage(c.req.valid("query"), async (at) => await listProjects(deps.sql, at));
    return c.json(page, 200);
  });
}

function addKeys(api: OpenAPIHono<PublicEnv>, deps: IdentityDeps): void {
  const create = createRoute({
    ...securedOnce("identity.key.manage", { hasSecret: true }),
    method: "post",
    path: `${ops}/api-keys`,
    operationId: "createApiKey",
    summary: "Make an API key",
    description:
      "The secret is in this answer and never shown again; a repetition with the same Idempotency-Key is refused.",
    tags,
    request: { headers: idempotencyHeader, body: jsonBody(apiKeyCreateSchema) },
    responses: { 201: jsonAnswer(apiKeyCreatedSchema, "Made."), ...PROBLEMS },
  });
  api.openapi(create, async (c) => {
    const made = await createApiKey(deps, {
      actor: c.var.principal.id,
      requestId: c.var.requestId,
      ...c.req.valid("json"),
    });
    return c.json(made, 201);
  });
  const list = createRoute({
    ...secured("identity.key.manage"),
    method: "get",
    path: `${ops}/api-keys`,
    operationId: "listApiKeys",
    summary: "List API keys",
    tags,
    request: { query: pageQuerySchema },
    responses: { 200: jsonAnswer(pageOf(apiKeySchema, "ApiKey"), "A page."), ...PROBLEMS },
  });
  api.openapi(list, async (c) => {
    const page = await readPage(c.req.valid("query"), async (at) => await listKeys(deps.sql, at));
    return c.json(page, 200);
  });
  const revoke = createRoute({
    ...secured("identity.key.manage"),
    method: "delete",
    path: `${ops}/api-keys/{keyId}`,
    operationId: "revokeApiKey",
    summary: "Revoke an API key",
    tags,
    request: { params: z.object({ keyId: idSchema("apiKey") }) },
    responses: { 204: { description: "Revoked." }, ...PROBLEMS },
  });
  api.openapi(revoke, async (c) => {
    const { keyId } = c.req.valid("param");
    if (!(await revokeKey(deps.sql, keyId))) throw new AppError("not_found");
    const row = {
      action: "api_key.revoked",
      targetId: keyId,
      targetVersion: null,
      outcome: "succeeded",
      detail: {},
    } as const;
    await insertAuditRow(deps.sql, { ...row, actor: c.var.principal.id, requestId: c.var.requestId });
    return c.body(null, 204);
  });
}

const refuseTakenName = (constraint: string, name: string) => (error: unknown) => {
  if (isUniqueViolation(error, constraint))
    throw new AppError("conflict", { detail: `The name ${name} is taken.`, cause: error });
  if (error instanceof Error && "code" in error && error.code === "23503") {
    throw new AppError("validation_failed", {
      errors: [{ pointer: "/organizationId", message: "There is no such organization." }],
      cause: error,
    });
  }
  throw error;
};
