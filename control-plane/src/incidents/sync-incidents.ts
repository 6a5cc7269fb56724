import type { IncidentSeverity } from "@hostler/shared/api/incidents.ts";
import { newId } from "@hostler/shared/ids.ts";
import { recordChange } from "../audit/record-change.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import type { Deps } from "../deps.ts";
import { closeOfGoneNodes, closeUnseen, escalateIncidents, upsertIncidents, type MovedIncident } from "./store.ts";

/**
 * Something that somebody should know of:
 *
 *     open  --still seen after a while-->  escalated
 *       └──────────── not seen any more ───────┴──>  closed
 *
 * Level-triggered: a source says all that it sees, again and again, and there is one incident of each. It opens, escalates and
 * closes with an event each; seeing it again only counts.
 */
export interface SeenIncident {
  /** What it is about, in one word: there is one live incident of a key. */
  readonly key: string;
  readonly kind: string;
  readonly severity: IncidentSeverity;
  readonly aboutId: string;
  readonly nodeId: string | null;
  readonly detail: string;
}

export interface Sighting {
  /** Whose findings these are: only its own incidents are closed by it. */
  readonly source: string;
  readonly seen: readonly SeenIncident[];
  /** What the source could not judge this time: what is known about it stays as it is. */
  readonly undecided: readonly string[];
  readonly escalateAfterMs: number;
}

type SyncDeps = Pick<Deps, "clock" | "log">;

/** Makes the source's live incidents what it sees now, in the caller's transaction. */
export async function syncIncidents(tx: Tx, deps: SyncDeps, sighting: Sighting): Promise<void> {
  const { source, seen, undecided, escalateAfterMs } = sighting;
  const keys = seen.map((incident) => incident.key);
  const made = seen.map((incident) => ({ ...incident, id: newId("incident", deps.clock) }));
  for (const opened of made.length === 0 ? [] : await upsertIncidents(tx, source, made)) {
    deps.log.warn(fieldsOf(opened), "incident opened");
    await record(tx, deps, "opened", opened);
  }
  for (const escalated of await escalateIncidents(tx, { source, keys, afterMs: escalateAfterMs })) {
    deps.log.error(fieldsOf(escalated), "incident goes on");
    await record(tx, deps, "escalated", escalated);
  }
  for (const closed of await closeUnseen(tx, { source, keys, undecided })) {
    deps.log.info(fieldsOf(closed), "incident is over");
    await record(tx, deps, "closed", closed);
  }
}

/** Nobody will ever say that what was wrong with a host that left the fleet is over. May run twice. */
export async function closeIncidentsOfGoneNodes(deps: Pick<Deps, "sql" | "clock">): Promise<void> {
  await inTransaction(deps.sql, async (tx) => {
    for (const closed of await closeOfGoneNodes(tx)) await record(tx, deps, "closed", closed);
  });
}

async function record(
  tx: Tx,
  deps: Pick<Deps, "clock">,
  what: "opened" | "escalated" | "closed",
  incident: MovedIncident,
): Promise<void> {
  const { kind, severity, aboutId, nodeId, detail } = incident;
  await recordChange(tx, deps.clock, {
    actor: "system:reconciliation",
    topic: `incident.${what}`,
    targetId: incident.id,
    targetVersion: incident.version,
    projectId: null,
    requestId: null,
    body: { kind, severity, aboutId, nodeId, detail },
  });
}

function fieldsOf({ id, kind, severity, aboutId, nodeId, detail }: MovedIncident): Readonly<Record<string, unknown>> {
  return { incidentId: id, kind, severity, aboutId, nodeId, detail };
}
