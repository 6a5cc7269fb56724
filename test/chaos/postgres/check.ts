import { auditKeysSchema } from "@hostler/shared/api/audit.ts";
import { linesOf, verifyAuditExport } from "@hostler/pki";
import { createPublicKey } from "node:crypto";
import type { SuitePlanes } from "../../support/suite-planes.ts";
import { waitFor } from "../../support/wait-for.ts";
import type { TenantSlice } from "./tenants.ts";

const LIFE = ["requested", "provisioning", "active", "releasing", "released"].map((state) => `allocation.${state}`);
const SETTLE_MS = 20_000;

export interface Verdict {
  /** Accepted and not there, or not where it should be by now; one line each. */
  readonly lost: readonly string[];
  /** There twice; one line each. */
  readonly doubled: readonly string[];
  /** Nodes that were called down. */
  readonly falseDowns: number;
  /** What else does not hold: events, audit log, slots. */
  readonly broken: readonly string[];
}

/** Compares what tenants were told with what the database holds. */
export async function checkBooks(planes: SuitePlanes, slices: readonly TenantSlice[]): Promise<Verdict> {
  const lost: string[] = [];
  const doubled: string[] = [];
  const rows = await planes.sql<
    { id: string; name: string; state: string; reason: string | null; topics: string[]; tasks: string[] }[]
  >`
    select a.id, a.name, a.state, a.reason,
      (select coalesce(array_agg(e.topic order by e.aggregate_version), '{}') from events e where e.aggregate_id = a.id) as topics,
      (select coalesce(array_agg(t.kind || ' ' || t.state order by t.created_at), '{}') from task_history t where t.target_id = a.id) as tasks
    from allocations a
  `;
  for (const slice of slices) {
    const mine = rows.filter((row) => row.name === slice.name);
    const [row] = mine;
    if (mine.length > 1) doubled.push(`${slice.name}: ${mine.length} allocations for one key`);
    if (slice.allocationId === null) lost.push(`${slice.name}: never accepted`);
    else if (row === undefined) lost.push(`${slice.name}: ${slice.allocationId} was accepted and is not there`);
    else if (row.id !== slice.allocationId)
      doubled.push(`${slice.name}: told of ${slice.allocationId}, there is ${row.id}`);
    if (row !== undefined && row.state !== "released")
      lost.push(`${slice.name}: ${row.id} is ${row.state}: ${row.reason} (${row.tasks.join(", ")})`);
    if (row?.state === "released" && row.topics.join() !== LIFE.join())
      doubled.push(`${row.id}: its events are ${row.topics.join(", ")}`);
    if (row?.state === "released" && row.tasks.join() !== "slice.vm_provision succeeded,slice.vm_release succeeded")
      doubled.push(`${row.id}: its tasks are ${row.tasks.join(", ")}`);
  }
  return { lost, doubled, falseDowns: await falseDowns(planes), broken: await brokenBooks(planes) };
}

async function falseDowns({ sql }: SuitePlanes): Promise<number> {
  const rows = await sql`select from audit_log where action = 'node.down'`;
  return rows.length;
}

async function brokenBooks(planes: SuitePlanes): Promise<string[]> {
  const { sql } = planes;
  const broken: string[] = [];
  const settled = await waitFor("every event in its place and every row sealed", async () => await isSettled(sql), {
    timeoutMs: SETTLE_MS,
  }).catch((error: unknown) => String(error));
  if (typeof settled === "string") broken.push(settled);
  const gaps = await sql`
    select from (select count(*) as count, max(position) as last from event_positions) as positions
    where count <> last
  `;
  if (gaps.length > 0) broken.push("event positions have a gap");
  const unrecorded = await sql<{ id: string }[]>`
    select a.id
    from allocations a
    where a.version <> (select count(*) from events e where e.aggregate_id = a.id)
      or a.version <> (select count(*) from audit_log l where l.target_id = a.id and l.target_version is not null)
  `;
  broken.push(...unrecorded.map(({ id }) => `${id}: its version is not the number of its events and audit rows`));
  const slots = await sql<{ slot: string }[]>`
    select gpu_uuid || ' ' || state as slot from gpu_slots where state <> 'available'
  `;
  broken.push(...slots.map(({ slot }) => `slot ${slot} after all was released`));
  const problem = await auditProblem(planes);
  if (problem !== null) broken.push(`audit log: ${problem}`);
  return broken;
}

async function isSettled(sql: SuitePlanes["sql"]): Promise<boolean> {
  const [row] = await sql<{ isSettled: boolean }[]>`
    select (select count(*) from events) = (select count(*) from event_positions)
      and (select count(*) from audit_log) = (select count(*) from audit_chain) as "isSettled"
  `;
  return row?.isSettled === true;
}

async function auditProblem(planes: SuitePlanes): Promise<string | null> {
  const operator = planes.replicas[0]?.operator;
  if (operator === undefined) return "no replica";
  const { keys } = await operator.get("/api/ops/v1/audit/keys", auditKeysSchema);
  const publicKeys = keys.map((key) => createPublicKey({ key: { ...key }, format: "jwk" }));
  const report = await verifyAuditExport(linesOf(textOf(await operator.download("/api/ops/v1/audit/export"))), {
    publicKeys,
  });
  return report.problem === null ? null : `${report.problem.kind}: ${report.problem.message}`;
}

async function* textOf(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  for await (const piece of bytes) yield decoder.decode(piece, { stream: true });
}
