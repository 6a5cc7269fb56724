import { inventorySchema, NODE_PATHS, proofRequestSchema } from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import type { NodeEnv } from "../http/node-env.ts";
import { readJson } from "../http/read-json.ts";
import type { EnrolDeps } from "./enrol-node.ts";
import { renewCertificate } from "./renew-certificate.ts";
import { reportInventory } from "./report-inventory.ts";

/** What a node says about itself. */
export function nodeNodeRoutes(deps: EnrolDeps): Hono<NodeEnv> {
  const app = new Hono<NodeEnv>();
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
