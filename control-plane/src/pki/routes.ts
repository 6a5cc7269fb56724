import { createRoute, type OpenAPIHono } from "@hono/zod-openapi";
import { API_PREFIX } from "@hostler/shared/api/common.ts";
import { pkiStatusSchema, rotationRequestSchema } from "@hostler/shared/api/pki.ts";
import { jsonAnswer, jsonBody, newApi, PROBLEMS, secured } from "../http/api-route.ts";
import type { PublicEnv } from "../http/env.ts";
import { readPkiStatus, rotateAuthorities, type RotateDeps } from "./rotate-authorities.ts";

const { ops } = API_PREFIX;
const tags = ["pki"];

/** The certificate authorities: where they stand, and their rotation. */
export function pkiRoutes(deps: RotateDeps): OpenAPIHono<PublicEnv> {
  const api = newApi();
  const status = createRoute({
    ...secured("fleet.pki.manage"),
    method: "get",
    path: `${ops}/pki`,
    operationId: "getPkiStatus",
    summary: "Show the certificate authorities and how far the hosts are with a rotation",
    tags,
    responses: { 200: jsonAnswer(pkiStatusSchema, "Now."), ...PROBLEMS },
  });
  api.openapi(status, async (c) => c.json(await readPkiStatus(deps), 200));
  const rotate = createRoute({
    ...secured("fleet.pki.manage"),
    method: "post",
    path: `${ops}/pki/rotation`,
    operationId: "rotateAuthorities",
    summary: "Take one step of a rotation: prepare, issue, retire, or rollback",
    tags,
    request: { body: jsonBody(rotationRequestSchema) },
    responses: { 200: jsonAnswer(pkiStatusSchema, "After the step."), ...PROBLEMS },
  });
  api.openapi(rotate, async (c) => {
    const request = { ...c.req.valid("json"), actor: c.var.principal.id, requestId: c.var.requestId };
    return c.json(await rotateAuthorities(deps, request), 200);
  });
  return api;
}
