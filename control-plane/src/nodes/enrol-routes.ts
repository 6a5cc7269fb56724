import { proofRequestSchema } from "@hostler/shared/node-protocol.ts";
import { NODE_PATHS } from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import type { EnrolEnv } from "../http/node-apps.ts";
import { readJson } from "../http/read-json.ts";
import { enrolNode, type EnrolDeps } from "./enrol-node.ts";

/** The one route that a stranger may call. */
export function enrolRoutes(deps: EnrolDeps): Hono<EnrolEnv> {
  const app = new Hono<EnrolEnv>();
  app.post(NODE_PATHS.enrol, async (c) => {
    const { proof } = await readJson(c, proofRequestSchema);
    return c.json(
      await enrolNode(deps, { proof, requestHost: c.req.header("host") ?? "", requestId: c.var.requestId }),
    );
  });
  return app;
}
