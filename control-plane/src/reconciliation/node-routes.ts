import { NODE_PATHS, slicesReportSchema } from "@hostler/shared/node-protocol.ts";
import { Hono } from "hono";
import type { NodeEnv } from "../http/node-env.ts";
import { readJson } from "../http/read-json.ts";
import { makeListBudget } from "./list-budget.ts";
import { reconcileNode, type ReconcileDeps } from "./reconcile-node.ts";

/** What a node says of its slices. */
export function reconciliationNodeRoutes(deps: ReconcileDeps): Hono<NodeEnv> {
  const app = new Hono<NodeEnv>();
  const budget = makeListBudget(deps.clock);
  app.post(NODE_PATHS.slices, async (c) => {
    budget.spend(c.var.node.id);
    const report = await readJson(c, slicesReportSchema);
    await reconcileNode(deps, { nodeId: c.var.node.id, report });
    return c.json({});
  });
  return app;
}
