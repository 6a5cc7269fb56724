import type { SliceEntry, SlicesReport } from "@hostler/shared/node-protocol.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import type { Finding, FindingKind } from "./diff-slices.ts";

/** Keeps the node's list. Its row stays locked until the commit, so that two lists of a node are judged one after the other. */
export async function saveReport(tx: Tx, nodeId: string, report: SlicesReport): Promise<void> {
  await tx`
    insert into node_slices (node_id, digest, high_water_mark, is_whole, slices)
    values (${nodeId}, ${report.digest}, ${report.highWaterMark}, ${report.isWhole}, ${tx.json(report.slices)})
    on conflict (node_id) do update
    set digest = excluded.digest, high_water_mark = excluded.high_water_mark, is_whole = excluded.is_whole, slices = excluded.slices,
      reported_at = now()
  `;
}

export async function readReport(
  db: Queryable,
  nodeId: string,
): Promise<
  { readonly slices: readonly SliceEntry[]; readonly isWhole: boolean; readonly reportedAt: Date } | undefined
> {
  const [row] = await db<{ slices: SliceEntry[]; isWhole: boolean; reportedAt: Date }[]>`
    select slices, is_whole as "isWhole", reported_at as "reportedAt" from node_slices where node_id = ${nodeId}
  `;
  return row;
}

export interface FindingRow extends Finding {
  readonly tries: number;
  /** Whether its time has come: to be corrected, or told. */
  readonly isDue: boolean;
  readonly isGivenUp: boolean;
  readonly firstSeenAt: Date;
}

export interface FindingKey {
  readonly nodeId: string;
  readonly allocationId: string;
  readonly generation: number;
  readonly kind: FindingKind;
}

/**
 * Writes down what a list shows. What is seen again keeps its time and its tries. What comes back within an hour has its pause to
 * the end, and with `keepsTries` its tries: a machine that ends again and again is not brought back for ever.
 */
export async function saveFindings(
  tx: Tx,
  nodeId: string,
  findings: readonly (Finding & { readonly patienceMs: number; readonly keepsTries: boolean })[],
): Promise<void> {
  if (findings.length === 0) return;
  await tx`
    with seen as materialized (
      select *
      from jsonb_to_recordset(${tx.json(findings as never)})
        as s ("allocationId" text, generation int, kind text, driver text, detail text, "gpuUuids" jsonb, "patienceMs" float8,
          "keepsTries" boolean)
    )
    insert into slice_findings as f (node_id, allocation_id, generation, kind, driver, detail, gpu_uuids, due_at)
    select ${nodeId}, "allocationId", generation, kind, driver, detail,
      array(select jsonb_array_elements_text("gpuUuids")), now() + make_interval(secs => "patienceMs" / 1000)
    from seen
    on conflict (node_id, allocation_id, generation, kind) do update
    set driver = excluded.driver, detail = excluded.detail, gpu_uuids = excluded.gpu_uuids, last_seen_at = now(), resolved_at = null,
      first_seen_at = case when f.resolved_at is null then f.first_seen_at else now() end,
      tries = case
        when f.resolved_at is null or excluded.kind in (select kind from seen where "keepsTries") then f.tries
        else 0
      end,
      due_at = case when f.resolved_at is null then f.due_at else greatest(f.due_at, excluded.due_at) end
  `;
}

/**
 * What the list does not show any more, of what it could judge, is resolved. Of what nobody knows nothing is kept: a host could
 * invent any number of it.
 */
export async function resolveFindings(
  tx: Tx,
  nodeId: string,
  seen: { readonly findings: readonly Finding[]; readonly undecided: readonly string[] },
): Promise<void> {
  await tx`
    with forgotten as (
      delete from slice_findings f
      where node_id = ${nodeId} and kind = 'unknown' and not (allocation_id = any(${[...seen.undecided]})) and not exists (
        select from jsonb_to_recordset(${tx.json(seen.findings as never)}) as s ("allocationId" text, generation int, kind text)
        where s."allocationId" = f.allocation_id and s.generation = f.generation and s.kind = f.kind
      )
    )
    update slice_findings f
    set resolved_at = now()
    where node_id = ${nodeId} and kind <> 'unknown' and resolved_at is null and not (allocation_id = any(${[...seen.undecided]}))
      and not exists (
        select from jsonb_to_recordset(${tx.json(seen.findings as never)}) as s ("allocationId" text, generation int, kind text)
        where s."allocationId" = f.allocation_id and s.generation = f.generation and s.kind = f.kind
      )
  `;
}

/** Whether anything is the matter with the node's slices as far as is known; what was over long ago is forgotten on the way. */
export async function hasFindings(tx: Tx, nodeId: string): Promise<boolean> {
  const rows = await tx`
    with forgotten as (
      delete from slice_findings where node_id = ${nodeId} and resolved_at < now() - interval '1 hour'
    )
    select from slice_findings where node_id = ${nodeId} and resolved_at is null limit 1
  `;
  return rows.length > 0;
}

/** What is the matter with the node's slices now, in a stable order. */
export async function readFindings(db: Queryable, nodeId: string, triesMax: number): Promise<FindingRow[]> {
  return await db<FindingRow[]>`
    select allocation_id as "allocationId", generation, kind, driver, detail, gpu_uuids as "gpuUuids", tries,
      coalesce(due_at <= now(), false) as "isDue", tries >= ${triesMax} as "isGivenUp", first_seen_at as "firstSeenAt"
    from slice_findings
    where node_id = ${nodeId} and resolved_at is null
    order by allocation_id, generation, kind
  `;
}

/** What has only to be told, and is told now, has no further time of its own. */
export async function noteTold(tx: Tx, nodeId: string, kinds: readonly FindingKind[]): Promise<void> {
  await tx`
    update slice_findings
    set tries = 1, due_at = null
    where node_id = ${nodeId} and resolved_at is null and due_at <= now() and kind = any(${[...kinds]})
  `;
}

/** Something was done: the next time is after the pause, or never by itself when `pauseMs` is null. */
export async function noteTry(
  tx: Tx,
  key: FindingKey,
  next: { readonly isTry: boolean; readonly pauseMs: number | null },
): Promise<void> {
  await tx`
    update slice_findings
    set tries = tries + ${next.isTry ? 1 : 0},
      due_at = case when ${next.pauseMs}::float8 is not null then now() + make_interval(secs => ${next.pauseMs}::float8 / 1000) end
    where node_id = ${key.nodeId} and allocation_id = ${key.allocationId} and generation = ${key.generation} and kind = ${key.kind}
  `;
}
