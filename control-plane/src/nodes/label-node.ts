import type { Node } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import { insertAuditRow } from "../audit/store.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { patchLabels } from "./lifecycle-store.ts";
import { readNodes } from "./store.ts";

const LABELS_MAX = 32;

/** Sets labels, or takes those away that are null. They choose hosts for slices; `zone` names the failure domain. */
export async function labelNode(
  deps: Pick<Deps, "sql">,
  change: {
    readonly nodeId: string;
    readonly labels: Readonly<Record<string, string | null>>;
    readonly actor: string;
    readonly requestId: string;
  },
): Promise<Node> {
  const { nodeId, labels } = change;
  return await inTransaction(deps.sql, async (tx) => {
    const after = await patchLabels(tx, nodeId, labels);
    if (after === undefined) throw new AppError("not_found");
    if (Object.keys(after).length > LABELS_MAX)
      throw new AppError("conflict", { detail: `A host has at most ${LABELS_MAX} labels.` });
    await insertAuditRow(tx, {
      actor: change.actor,
      action: "node.labelled",
      targetId: nodeId,
      targetVersion: null,
      outcome: "succeeded",
      requestId: change.requestId,
      detail: { labels },
    });
    const [node] = await readNodes(tx, { id: nodeId, after: null, limit: 1 });
    if (node === undefined) throw new AppError("not_found");
    return node;
  });
}
