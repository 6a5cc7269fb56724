import type { Clock } from "@hostler/shared/clock.ts";
import { newId } from "@hostler/shared/ids.ts";
import type { Tx } from "../db/sql.ts";
import { insertChanges } from "./store.ts";

/** One change of state, told once as an event and once in the audit log. The database refuses the commit without both. */
export interface Change {
  /** Principal id, `node:<id>` or `system:<loop>`. */
  readonly actor: string;
  /** `allocation.active`, `node.revoked`: past tense, what became true. */
  readonly topic: string;
  readonly targetId: string;
  /** The version that the change gave to the target's row. */
  readonly targetVersion: number;
  readonly projectId: string | null;
  readonly requestId: string | null;
  /** Never a secret. */
  readonly body: Readonly<Record<string, unknown>>;
}

/** Writes the event and the audit row of a change, in the change's own transaction. */
export async function recordChange(tx: Tx, clock: Clock, change: Change): Promise<void> {
  await recordChanges(tx, clock, [change]);
}

/** The same for several changes, in their order. */
export async function recordChanges(tx: Tx, clock: Clock, changes: readonly Change[]): Promise<void> {
  if (changes.length === 0) return;
  await insertChanges(
    tx,
    changes.map((change) => ({ ...change, eventId: newId("event", clock) })),
  );
}
