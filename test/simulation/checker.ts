import type { Sql } from "@hostler/control-plane/db/sql.ts";
import type { TaskClaims } from "@hostler/shared/tasks.ts";
import type { Effect } from "./effects.ts";

/** Something that must never be, and the ids that its story is about. */
export interface Violation {
  /** Number of the invariant in DESIGN.md, or `liveness`, or `error` for one outside of the catalogue. */
  readonly invariant: "1" | "2" | "3" | "4" | "5" | "liveness" | "error";
  readonly message: string;
  readonly about: readonly string[];
}

/** What was seen outside of the database while the world ran. */
export interface Seen {
  readonly effects: readonly Effect[];
  readonly grants: readonly Pick<TaskClaims, "jti" | "fence" | "aud" | "seq">[];
  /** When an agent first signed a result, by its task and fence. */
  readonly signed: ReadonlyMap<string, number>;
}

/** Everything that the database and the effects on hosts tell about invariants 1 to 5, at any moment. */
export async function checkInvariants(sql: Sql, seen: Seen): Promise<Violation[]> {
  const violations = [
    ...(await slotsOfLiveAllocations(sql)),
    ...(await capacityOfNodes(sql)),
    ...(await recordsOfChanges(sql)),
    ...(await acceptedResults(sql, seen.signed)),
    ...(await effectsUnderLeases(sql, seen.effects)),
    ...(await effectsOnSlots(sql, seen.effects)),
  ];
  return [...violations, ...fencesThatWentBack(seen.effects), ...grantsThatWentBack(seen.grants)];
}

/** Invariants 1 and 2: a live allocation owns its GPUs, one in a final state owns nothing. */
async function slotsOfLiveAllocations(sql: Sql): Promise<Violation[]> {
  const rows = await sql<{ id: string; state: string; wanted: number; owned: number }[]>`
    select a.id, a.state, jsonb_array_length(a.gpus) as wanted,
      (select count(*)::int from gpu_slots s
        where s.allocation_id = a.id and s.node_id = a.node_id and a.gpus @> jsonb_build_array(jsonb_build_object('uuid', s.gpu_uuid))) as owned
    from allocations a
  `;
  return rows.flatMap(({ id, state, wanted, owned }) => {
    const isFinal = state === "released" || state === "failed";
    if (owned === (isFinal ? 0 : wanted)) return [];
    const message = `allocation ${id} is ${state}, has ${wanted} GPUs and owns ${owned} slots`;
    return [{ invariant: isFinal ? ("2" as const) : ("1" as const), message, about: [id] }];
  });
}

async function capacityOfNodes(sql: Sql): Promise<Violation[]> {
  const rows = await sql<{ id: string; used: number; held: number }[]>`
    select n.id, coalesce(u.vcpus, 0) as used, coalesce(sum(a.vcpus), 0)::int as held
    from nodes n
    left join node_usage u on u.node_id = n.id
    left join allocations a on a.node_id = n.id and a.state not in ('released', 'failed')
    group by n.id, u.vcpus, u.memory_mib
    having coalesce(u.vcpus, 0) <> coalesce(sum(a.vcpus), 0) or coalesce(u.memory_mib, 0) <> coalesce(sum(a.memory_mib), 0)
    order by n.id
  `;
  return rows.map(({ id, used, held }) => ({
    invariant: "2",
    message: `node ${id} counts ${used} vCPUs as used, its live allocations hold ${held}`,
    about: [id],
  }));
}

/** Invariant 3: for each version of an allocation or node one event and one audit row. */
async function recordsOfChanges(sql: Sql): Promise<Violation[]> {
  const rows = await sql<{ id: string; version: number; events: number; audits: number }[]>`
    select t.id, t.version,
      (select count(*)::int from events e where e.aggregate_id = t.id and e.aggregate_version between 1 and t.version) as events,
      (select count(*)::int from audit_log l where l.target_id = t.id and l.target_version between 1 and t.version) as audits
    from (select id, version from allocations union all select id, version from nodes) as t
    order by t.id
  `;
  return rows
    .filter(({ version, events, audits }) => events !== version || audits !== version)
    .map(({ id, version, events, audits }) => ({
      invariant: "3",
      message: `${id} is at version ${version} and has ${events} events and ${audits} audit rows`,
      about: [id],
    }));
}

/** Invariant 5: whatever result was accepted, the holder of that very grant signed it. */
async function acceptedResults(sql: Sql, signed: Seen["signed"]): Promise<Violation[]> {
  const rows = await sql<{ taskId: string; fence: string; atMs: number }[]>`
    select target_id as "taskId", detail ->> 'fence' as fence,
      (extract(epoch from at - timestamptz '2030-01-01 00:00:00+00') * 1000)::float8 as "atMs"
    from audit_log
    where action = 'task.result'
    order by seq
  `;
  return rows
    .filter(({ taskId, fence, atMs }) => (signed.get(`${taskId} ${fence}`) ?? Infinity) > atMs + 1)
    .map(({ taskId, fence }) => ({
      invariant: "5",
      message: `a result of ${taskId} was accepted for fence ${fence}, which no agent had given for that fence`,
      about: [taskId],
    }));
}

interface LeaseRow {
  readonly step: string;
  readonly taskId: string;
  readonly state: string;
  readonly fence: string;
  readonly leaseUntilMs: number | null;
}

/** Invariant 5: whoever began an effect held the task at that moment, by the database's own account. */
async function effectsUnderLeases(sql: Sql, effects: readonly Effect[]): Promise<Violation[]> {
  const rows = await sql<LeaseRow[]>`
    select step, task_id as "taskId", state, fence::text,
      (extract(epoch from lease_until - timestamptz '2030-01-01 00:00:00+00') * 1000)::float8 as "leaseUntilMs"
    from lease_history
    order by number
  `;
  const histories = Map.groupBy(rows, (row) => row.taskId);
  return effects.flatMap((effect) => {
    const held = (histories.get(effect.taskId) ?? []).findLast((row) => Number(row.step) <= effect.step);
    const isHeld =
      held?.state === "leased" &&
      held.fence === effect.fence &&
      held.leaseUntilMs !== null &&
      held.leaseUntilMs >= effect.atMs;
    if (isHeld) return [];
    const held_ = held === undefined ? "unknown" : `${held.state} under fence ${held.fence}`;
    return [
      {
        invariant: "5" as const,
        message: `${effect.host} began "${effect.what}" at ${effect.atMs} ms under fence ${effect.fence} of ${effect.taskId}, which is ${held_}, leased until ${held?.leaseUntilMs ?? 0} ms`,
        about: [effect.taskId, effect.allocationId],
      },
    ];
  });
}

/** Invariant 1: whoever acts on a GPU owns its slot, or nobody does any more and it is quarantined. */
async function effectsOnSlots(sql: Sql, effects: readonly Effect[]): Promise<Violation[]> {
  const rows = await sql<{ step: string; gpuUuid: string; state: string; allocationId: string | null }[]>`
    select step, gpu_uuid as "gpuUuid", state, allocation_id as "allocationId" from slot_history order by number
  `;
  const histories = Map.groupBy(rows, (row) => row.gpuUuid);
  return effects.flatMap((effect) => {
    if (effect.gpuUuid === null) return [];
    const slot = (histories.get(effect.gpuUuid) ?? []).findLast((row) => Number(row.step) <= effect.step);
    if (slot?.allocationId === effect.allocationId || slot?.state === "quarantined") return [];
    return [
      {
        invariant: "1" as const,
        message: `${effect.host} began "${effect.what}" on ${effect.gpuUuid} for ${effect.allocationId}, and the slot is ${slot?.state ?? "unknown"} of ${slot?.allocationId ?? "nobody"}`,
        about: [effect.allocationId, effect.gpuUuid],
      },
    ];
  });
}

function fencesThatWentBack(effects: readonly Effect[]): Violation[] {
  const highest = new Map<string, bigint>();
  return effects.flatMap((effect) => {
    const fence = BigInt(effect.fence);
    const before = highest.get(effect.allocationId) ?? 0n;
    highest.set(effect.allocationId, fence > before ? fence : before);
    if (fence >= before) return [];
    return [
      {
        invariant: "5" as const,
        message: `${effect.host} began "${effect.what}" for ${effect.allocationId} under fence ${fence} after fence ${before} had acted`,
        about: [effect.allocationId, effect.taskId],
      },
    ];
  });
}

function grantsThatWentBack(grants: Seen["grants"]): Violation[] {
  const fences = new Map<string, bigint>();
  const seqs = new Map<string, number>();
  return grants.flatMap((grant) => {
    const before = fences.get(grant.jti) ?? 0n;
    const seq = seqs.get(`${grant.aud} ${grant.seq}`);
    fences.set(grant.jti, BigInt(grant.fence));
    seqs.set(`${grant.aud} ${grant.seq}`, grant.seq);
    if (BigInt(grant.fence) > before && seq === undefined) return [];
    return [
      {
        invariant: "5" as const,
        message: `${grant.jti} was granted with fence ${grant.fence} after ${before}, sequence ${grant.seq} of ${grant.aud}`,
        about: [grant.jti],
      },
    ];
  });
}

/** Invariant 4: what was written stays as it was. Compared by a hash of all rows up to a number. */
export async function historyDigest(sql: Sql, upTo: HistoryMark | null): Promise<HistoryMark> {
  const [row] = await sql<{ audit: string; events: string; digest: string }[]>`
    select coalesce(max(l.seq), 0)::text as audit, (select coalesce(max(seq), 0)::text from events) as events,
      md5(coalesce(string_agg(md5(l::text), '' order by l.seq), ''))
        || (select md5(coalesce(string_agg(md5(e::text), '' order by e.seq), '')) from events e
          where ${upTo?.events ?? null}::bigint is null or e.seq <= ${upTo?.events ?? null}) as digest
    from audit_log l
    where ${upTo?.audit ?? null}::bigint is null or l.seq <= ${upTo?.audit ?? null}
  `;
  if (row === undefined) throw new Error("an aggregate returned no row");
  return row;
}

export interface HistoryMark {
  readonly audit: string;
  readonly events: string;
  readonly digest: string;
}
