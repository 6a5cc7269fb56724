import type { PlacementExplanation } from "@hostler/shared/api/allocations.ts";
import type { Deps } from "../deps.ts";
import { chooseNodes, reasonAgainst } from "./choose-nodes.ts";
import { NODES_SHOWN_MAX, viewOf } from "./placement.ts";
import { listCandidates } from "./placement-store.ts";
import { demandOf, reasonAgainstQuota } from "./quota.ts";
import { readQuota, readUsage } from "./quota-store.ts";
import { wishOf, type Wished } from "./wish-of.ts";

/** Whether a request would be placed now, and of each node why it would not do. Takes nothing, so it promises nothing. */
export async function explainPlacement(
  deps: Pick<Deps, "sql">,
  request: { readonly projectId: string; readonly template: Wished; readonly count: number },
): Promise<PlacementExplanation> {
  const { projectId, count } = request;
  const wish = wishOf(request.template);
  const stored = await readQuota(deps.sql, projectId);
  const usage = await readUsage(deps.sql, projectId);
  const quota = stored === undefined ? null : reasonAgainstQuota(stored, usage, demandOf(wish, count));
  const candidates = await listCandidates(deps.sql, { projectId, wish }, "all");
  const choice = chooseNodes(candidates, wish, count);
  const nodes = candidates.slice(0, NODES_SHOWN_MAX).map((node) => {
    const reason = choice.kind === "refused" ? choice.reasons.get(node.id) : reasonAgainst(node, wish);
    return viewOf(node, reason ?? null);
  });
  return {
    fits: quota === null && choice.kind === "chosen",
    quota,
    nodes,
    nodesLeftOut: candidates.length - nodes.length,
  };
}
