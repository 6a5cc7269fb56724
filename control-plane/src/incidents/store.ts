import type { Incident, IncidentSeverity, IncidentState } from "@hostler/shared/api/incidents.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export interface NewIncident {
  readonly id: string;
  readonly key: string;
  readonly kind: string;
  readonly severity: IncidentSeverity;
  readonly aboutId: string;
  readonly nodeId: string | null;
  readonly detail: string;
}

export interface MovedIncident extends Omit<NewIncident, "key"> {
  readonly version: number;
}

/** Opens those whose key has no live incident, and counts the others once more. Resolves with the opened ones. */
export async function upsertIncidents(
  tx: Tx,
  source: string,
  incidents: readonly NewIncident[],
): Promise<MovedIncident[]> {
  const rows = await tx<(MovedIncident & { seenCount: number })[]>`
    insert into incidents (id, key, source, kind, severity, about_id, node_id, state, detail)
    select id, key, ${source}, kind, severity, "aboutId", "nodeId", 'open', detail
    from jsonb_to_recordset(${tx.json(incidents as never)})
      as seen (id text, key text, kind text, severity text, "aboutId" text, "nodeId" text, detail text)
    order by key
    on conflict (key) where state <> 'closed' do update
    set last_seen_at = now(), seen_count = incidents.seen_count + 1, detail = excluded.detail, severity = excluded.severity
    returning ${movedColumns(tx)}, seen_count as "seenCount"
  `;
  // One that was there has been counted before.
  return rows.filter((row) => row.seenCount === 1);
}

/** Those of the source's open incidents that were opened that long ago and are among the seen. */
export async function escalateIncidents(
  tx: Tx,
  escalation: { readonly source: string; readonly keys: readonly string[]; readonly afterMs: number },
): Promise<MovedIncident[]> {
  return await tx<MovedIncident[]>`
    update incidents
    set state = 'escalated', version = version + 1, escalated_at = now()
    where source = ${escalation.source} and state = 'open' and key = any(${[...escalation.keys]})
      and opened_at <= now() - make_interval(secs => ${escalation.afterMs / 1000})
    returning ${movedColumns(tx)}
  `;
}

/** Closes the source's live incidents that it does not see any more, but for those about what it could not judge. */
export async function closeUnseen(
  tx: Tx,
  seen: { readonly source: string; readonly keys: readonly string[]; readonly undecided: readonly string[] },
): Promise<MovedIncident[]> {
  return await tx<MovedIncident[]>`
    update incidents
    set state = 'closed', version = version + 1, closed_at = now()
    where source = ${seen.source} and state in ('open', 'escalated') and not (key = any(${[...seen.keys]}))
      and not (about_id = any(${[...seen.undecided]}))
    returning ${movedColumns(tx)}
  `;
}

/** Incidents of hosts that will never tell of themselves again. */
export async function closeOfGoneNodes(tx: Tx): Promise<MovedIncident[]> {
  return await tx<MovedIncident[]>`
    update incidents
    set state = 'closed', version = incidents.version + 1, closed_at = now()
    from nodes n
    where n.id = incidents.node_id and n.state in ('revoked', 'retired') and incidents.state in ('open', 'escalated')
    returning incidents.id, incidents.kind, severity, about_id as "aboutId", node_id as "nodeId", detail, incidents.version
  `;
}

function movedColumns(db: Queryable) {
  return db`id, kind, severity, about_id as "aboutId", node_id as "nodeId", detail, version`;
}

interface IncidentRow extends Omit<Incident, "openedAt" | "lastSeenAt" | "escalatedAt" | "closedAt"> {
  readonly openedAt: Date;
  readonly lastSeenAt: Date;
  readonly escalatedAt: Date | null;
  readonly closedAt: Date | null;
}

/** The newest first. */
export async function readIncidents(
  db: Queryable,
  filter: { readonly states: readonly IncidentState[]; readonly after: string | null; readonly limit: number },
): Promise<Incident[]> {
  const rows = await db<IncidentRow[]>`
    select i.id, i.kind, i.severity, i.state, i.about_id as "aboutId", i.node_id as "nodeId", n.name as "nodeName", i.detail,
      i.seen_count as "seenCount", i.opened_at as "openedAt", i.last_seen_at as "lastSeenAt", i.escalated_at as "escalatedAt",
      i.closed_at as "closedAt"
    from incidents i
    left join nodes n on n.id = i.node_id
    where i.state = any(${[...filter.states]}) and (${filter.after}::text is null or i.id < ${filter.after})
    order by i.id desc
    limit ${filter.limit}
  `;
  return rows.map((row) => ({
    ...row,
    openedAt: row.openedAt.toISOString(),
    lastSeenAt: row.lastSeenAt.toISOString(),
    escalatedAt: row.escalatedAt?.toISOString() ?? null,
    closedAt: row.closedAt?.toISOString() ?? null,
  }));
}
