import type { Clock } from "@hostler/shared/clock.ts";
import { recordChange } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import { moveNode } from "./store.ts";

/**
 * Freezes a node whose identity has two holders: which one is right, only a person can tell. Freezing what is frozen or revoked
 * changes nothing. After the commit, wake its `refusedTopic`.
 */
export async function freezeNode(
  tx: Tx,
  clock: Clock,
  freeze: { readonly nodeId: string; readonly actor: string; readonly reason: string; readonly requestId: string },
): Promise<void> {
  const moved = await moveNode(tx, freeze.nodeId, "frozen", { reason: freeze.reason });
  if (moved === undefined) return;
  await recordChange(tx, clock, {
    actor: freeze.actor,
    topic: "node.frozen",
    targetId: freeze.nodeId,
    targetVersion: moved.version,
    projectId: null,
    requestId: freeze.requestId,
    body: { reason: freeze.reason },
  });
}
