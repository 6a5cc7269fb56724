import type { Node } from "@hostler/shared/api/nodes.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { DrainPolicy, NodeState } from "@hostler/shared/states.ts";
import { recordChange } from "../audit/record-change.ts";
import { insertAuditRow } from "../audit/store.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { refusedTopic } from "../db/wake-bus.ts";
import { countHeld, saveDrain } from "./lifecycle-store.ts";
import { expectRestore } from "./session-store.ts";
import { moveNode, readNodes, revokeCertificates } from "./store.ts";

const LIVING = ["enrolled", "ready", "cordoned", "draining", "down", "quarantined"] as const;

/** What an operator does to a node: from which states, and the one that it leads to. */
export const NODE_ACTIONS = {
  /** Also ends a drain half way, and a quarantine. */
  cordon: { from: ["ready", "draining", "quarantined"], to: "cordoned" },
  uncordon: { from: ["cordoned", "draining"], to: "ready" },
  drain: { from: ["ready", "cordoned"], to: "draining" },
  quarantine: { from: ["enrolled", "ready", "cordoned", "draining", "down"], to: "quarantined" },
  /** Only when nothing is left on it. */
  retire: { from: ["enrolled", "cordoned", "down", "quarantined", "frozen"], to: "retired" },
  freeze: { from: LIVING, to: "frozen" },
  /** Leads to cordoned: whether the host gets work again is another decision. */
  unfreeze: { from: ["frozen"], to: "cordoned" },
  revoke: { from: [...LIVING, "frozen"], to: "revoked" },
} as const satisfies Record<string, { readonly from: readonly NodeState[]; readonly to: NodeState }>;
export type NodeAction = keyof typeof NODE_ACTIONS;

/** After an unfreeze, whichever copy the operator left running starts with a session that may be an older one. */
const UNFROZEN_SECONDS = 3600;
const REFUSED: ReadonlySet<NodeState> = new Set(["revoked", "frozen", "retired"]);

export interface DrainWish {
  readonly policy: DrainPolicy;
  readonly noticeSeconds: number;
}

export interface NodeChange {
  readonly nodeId: string;
  readonly action: NodeAction;
  readonly actor: string;
  readonly requestId: string;
  readonly reason: string | null;
  /** How to drain; only with that action. */
  readonly drain: DrainWish | null;
}

/** Moves a node by an operator's word. What a refused node sends counts no more from the commit on, and its connections are cut. */
export async function changeNodeState(deps: Pick<Deps, "sql" | "clock" | "wake">, change: NodeChange): Promise<Node> {
  const { to: target, from: sources } = NODE_ACTIONS[change.action];
  await inTransaction(deps.sql, async (tx) => {
    const moved = await moveNode(tx, change.nodeId, target, { sources, reason: change.reason });
    if (moved === undefined) return await explainStandstill(tx, change);
    await finishMove(tx, change);
    await recordChange(tx, deps.clock, {
      actor: change.actor,
      topic: `node.${target}`,
      targetId: change.nodeId,
      targetVersion: moved.version,
      projectId: null,
      requestId: change.requestId,
      body: bodyOf(change),
    });
  });
  if (REFUSED.has(target)) deps.wake.wake(refusedTopic(change.nodeId));
  const [node] = await readNodes(deps.sql, { id: change.nodeId, after: null, limit: 1 });
  if (node === undefined) throw new AppError("not_found");
  return node;
}

/** A node that is where it shall be is fine; a drain under way takes the new terms. */
async function explainStandstill(tx: Tx, change: NodeChange): Promise<void> {
  const { to: target } = NODE_ACTIONS[change.action];
  const [node] = await readNodes(tx, { id: change.nodeId, after: null, limit: 1 });
  if (node === undefined) throw new AppError("not_found");
  if (node.state !== target)
    throw new AppError("conflict", { detail: `A node that is ${node.state} cannot be ${target}.` });
  if (change.drain === null) return;
  await saveDrain(tx, { nodeId: change.nodeId, ...change.drain });
  await insertAuditRow(tx, {
    actor: change.actor,
    action: "node.drain_changed",
    targetId: change.nodeId,
    targetVersion: null,
    outcome: "succeeded",
    requestId: change.requestId,
    detail: bodyOf(change),
  });
}

async function finishMove(tx: Tx, change: NodeChange): Promise<void> {
  const { to: target } = NODE_ACTIONS[change.action];
  if (target === "retired") await refuseHeld(tx, change.nodeId);
  if (target === "retired" || target === "revoked") await revokeCertificates(tx, change.nodeId);
  if (change.action === "unfreeze") await expectRestore(tx, change.nodeId, UNFROZEN_SECONDS);
  if (change.drain !== null) await saveDrain(tx, { nodeId: change.nodeId, ...change.drain });
}

/** The move holds the node's row, and only a ready one is placed on: what is counted cannot grow. */
async function refuseHeld(tx: Tx, nodeId: string): Promise<void> {
  const held = await countHeld(tx, nodeId);
  if (held === 0) return;
  throw new AppError("conflict", {
    detail: `The node still has ${held} ${held === 1 ? "slice" : "slices"}. Drain it first.`,
  });
}

function bodyOf(change: NodeChange): Readonly<Record<string, unknown>> {
  return {
    ...(change.reason === null ? {} : { reason: change.reason }),
    ...(change.drain === null ? {} : { policy: change.drain.policy, noticeSeconds: change.drain.noticeSeconds }),
  };
}
