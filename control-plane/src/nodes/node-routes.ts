import {
  inventorySchema,
  NODE_PATHS,
  proofRequestSchema,
  sessionRequestSchema,
} from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import type { NodeEnv } from "../http/node-env.ts";
import { readJson } from "../http/read-json.ts";
import type { Deps } from "../deps.ts";
import type { EnrolDeps } from "./enrol-node.ts";
import { renewCertificate } from "./renew-certificate.ts";
import { reportInventory } from "./report-inventory.ts";
import type { SessionTokens } from "./session-token.ts";
import { startSession } from "./start-session.ts";

export type NodeNodeDeps = EnrolDeps & Pick<Deps, "wake"> & { readonly sessions: SessionTokens };

/** What a node says about itself. */
export function nodeNodeRoutes(deps: NodeNodeDeps): Hono<NodeEnv> {
  const app = new Hono<NodeEnv>();
  app.post(NODE_PATHS.session, async (c) => {
    const body = await readJson(c, sessionRequestSchema);
    const { signal } = c.req.raw;
    return c.json(await startSession(deps, { nodeId: c.var.node.id, body, requestId: c.var.requestId, signal }));
  });
  app.post(NODE_PATHS.renew, async (c) => {
    const { proof } = await readJson(c, proofRequestSchema);
    const request = { node: c.var.node, proof, requestHost: c.req.header("host") ?? "", requestId: c.var.requestId };
    return c.json(await renewCertificate(deps, request));
  });
  app.post(NODE_PATHS.inventory, async (c) => {
    const inventory = await readJson(c, inventorySchema);
    await reportInventory(deps, { nodeId: c.var.node.id, inventory, requestId: c.var.requestId });
    return c.json({});
  });
  return app;
}
