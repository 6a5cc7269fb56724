import type { Node } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { NodeState } from "@hostler/shared/states.ts";
import { recordChange } from "../audit/record-change.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import type { LiveSockets } from "./live-sockets.ts";
import { moveNode, readNodes, revokeCertificates } from "./store.ts";

/** What an operator does to a node, and the state that it leads to. */
export const NODE_ACTIONS = { cordon: "cordoned", uncordon: "ready", revoke: "revoked" } as const satisfies Record<
  string,
  NodeState
>;
export type NodeAction = keyof typeof NODE_ACTIONS;

/** Moves a node by an operator's word. A revoked node's certificates are refused from the commit on and its connections are cut. */
export async function changeNodeState(
  deps: Pick<Deps, "sql" | "clock"> & { readonly liveSockets: LiveSockets },
  change: { readonly nodeId: string; readonly action: NodeAction; readonly actor: string; readonly requestId: string },
): Promise<Node> {
  const target = NODE_ACTIONS[change.action];
  await inTransaction(deps.sql, async (tx) => {
    const moved = await moveNode(tx, change.nodeId, target);
    if (moved === undefined) {
      const [node] = await readNodes(tx, { id: change.nodeId, after: null, limit: 1 });
      if (node === undefined) throw new AppError("not_found");
      if (node.state === target) return;
      throw new AppError("conflict", { detail: `A node that is ${node.state} cannot be ${target}.` });
    }
    if (target === "revoked") await revokeCertificates(tx, change.nodeId);
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
  if (target === "revoked") deps.liveSockets.cut(change.nodeId);
  const [node] = await readNodes(deps.sql, { id: change.nodeId, after: null, limit: 1 });
  if (node === undefined) throw new AppError("not_found");
  return node;
}
