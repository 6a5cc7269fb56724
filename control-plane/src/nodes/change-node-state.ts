import type { Node } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { NodeState } from "@hostler/shared/states.ts";
import { recordChange } from "../audit/record-change.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { refusedTopic } from "../db/wake-bus.ts";
import { expectRestore } from "./session-store.ts";
import { moveNode, readNodes, revokeCertificates } from "./store.ts";

/** What an operator does to a node: from which states, and the one that it leads to. */
export const NODE_ACTIONS = {
  cordon: { from: ["ready"], to: "cordoned" },
  uncordon: { from: ["cordoned"], to: "ready" },
  freeze: { from: ["enrolled", "ready", "cordoned"], to: "frozen" },
  /** Leads to cordoned: whether the host gets work again is another decision. */
  unfreeze: { from: ["frozen"], to: "cordoned" },
  revoke: { from: ["enrolled", "ready", "cordoned", "frozen"], to: "revoked" },
} as const satisfies Record<string, { readonly from: readonly NodeState[]; readonly to: NodeState }>;
export type NodeAction = keyof typeof NODE_ACTIONS;

/** After an unfreeze, whichever copy the operator left running starts with a session that may be an older one. */
const UNFROZEN_SECONDS = 3600;

/** Moves a node by an operator's word. What a refused node sends counts no more from the commit on, and its connections are cut. */
export async function changeNodeState(
  deps: Pick<Deps, "sql" | "clock" | "wake">,
  change: { readonly nodeId: string; readonly action: NodeAction; readonly actor: string; readonly requestId: string },
): Promise<Node> {
  const { to: target, from } = NODE_ACTIONS[change.action];
  await inTransaction(deps.sql, async (tx) => {
    const moved = await moveNode(tx, change.nodeId, target, from);
    if (moved === undefined) {
      const [node] = await readNodes(tx, { id: change.nodeId, after: null, limit: 1 });
      if (node === undefined) throw new AppError("not_found");
      if (node.state === target) return;
      throw new AppError("conflict", { detail: `A node that is ${node.state} cannot be ${target}.` });
    }
    if (target === "revoked") await revokeCertificates(tx, change.nodeId);
    if (change.action === "unfreeze") await expectRestore(tx, change.nodeId, UNFROZEN_SECONDS);
    await recordChange(tx, deps.clock, {
      actor: change.actor,
      topic: `node.${target}`,
      targetId: change.nodeId,
      targetVersion: moved.version,
      projectId: null,
      requestId: change.requestId,
      body: {},
    });
  });
  if (target === "revoked" || target === "frozen") deps.wake.wake(refusedTopic(change.nodeId));
  const [node] = await readNodes(deps.sql, { id: change.nodeId, after: null, limit: 1 });
  if (node === undefined) throw new AppError("not_found");
  return node;
}
