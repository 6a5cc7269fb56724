import type { Node } from "@hostler/shared/api/nodes.ts";
import { migUnitsOf } from "@hostler/shared/mig/mig-grid.ts";
import type { Gpu, HostFacts, Inventory } from "@hostler/shared/node-protocol.ts";
import {
  NODE_TRANSITIONS,
  sourcesOf,
  type DrainPolicy,
  type NodeState,
  type SlotState,
} from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import type { IssuedCertificate } from "../pki/certificate-authority.ts";
import type { SessionRecord } from "./judge-session.ts";

/** A node that was not heard for this long counts as offline; three missed polls. */
const ONLINE_SECONDS = 45;

export async function insertNode(
  tx: Tx,
  node: { readonly id: string; readonly name: string; readonly protocolVersion: number; readonly agentVersion: string },
): Promise<void> {
  await tx`
    insert into nodes (id, name, state, protocol_version, agent_version)
    values (${node.id}, ${node.name}, 'enrolled', ${node.protocolVersion}, ${node.agentVersion})
  `;
}

/** Resolves with its generation, one above the node's last. */
export async function insertCertificate(
  tx: Tx,
  row: { readonly nodeId: string; readonly keyThumbprint: string; readonly certificate: IssuedCertificate },
): Promise<number> {
  const { certificate } = row;
  const [inserted] = await tx<{ generation: number }[]>`
    insert into node_certificates (serial, node_id, generation, key_thumbprint, chain_pem, not_before, not_after, state, authority)
    select ${certificate.serial}, ${row.nodeId}, coalesce(max(generation), 0) + 1, ${row.keyThumbprint}, ${certificate.chainPem},
      ${certificate.notBefore}, ${certificate.notAfter}, 'active', ${certificate.authority}
    from node_certificates
    where node_id = ${row.nodeId}
    returning generation
  `;
  if (inserted === undefined) throw new Error("insert returned no row");
  return inserted.generation;
}

export interface CertificateRow {
  readonly nodeId: string;
  readonly nodeName: string;
  readonly nodeState: NodeState;
  readonly state: "active" | "superseded" | "revoked";
  readonly keyThumbprint: string;
  readonly generation: number;
  readonly chainPem: string;
  readonly notAfter: Date;
  /** Generation of the CA that signed it. */
  readonly authority: number;
}

/** What a request is judged by. */
export interface Judgement extends Omit<CertificateRow, "notAfter"> {
  /** Older certificates of the node still count until this one is seen. */
  readonly replacesOlder: boolean;
  readonly session: Omit<SessionRecord, "isRestoreExpected" | "instance">;
}

/** The records behind certificates, by serial, in one round trip: every request of every node asks for its own. */
export async function findJudgements(
  db: Queryable,
  serials: readonly string[],
): Promise<ReadonlyMap<string, Judgement>> {
  const rows = await db<
    (Omit<Judgement, "session"> & { serial: string; session: string; from: string; confirmed: boolean })[]
  >`
    select c.serial, n.id as "nodeId", n.name as "nodeName", n.state as "nodeState", c.state, c.key_thumbprint as "keyThumbprint",
      c.generation, c.authority, c.chain_pem as "chainPem", n.session::text, n.session_from::text as "from",
      n.session_confirmed as confirmed,
      exists (
        select from node_certificates o
        where o.node_id = c.node_id and o.generation < c.generation and o.state = 'active'
      ) as "replacesOlder"
    from node_certificates c
    join nodes n on n.id = c.node_id
    where c.serial = any(${[...serials]})
  `;
  return new Map(
    rows.map(({ serial, session, from, confirmed, ...rest }) => [
      serial,
      { ...rest, session: { session: Number(session), from: Number(from), confirmed } },
    ]),
  );
}

/** Those of the nodes that are refused whatever certificate they show. */
export async function findRefused(db: Queryable, nodeIds: readonly string[]): Promise<string[]> {
  const rows = await db<{ id: string }[]>`
    select id from nodes where id = any(${[...nodeIds]}) and state in ('frozen', 'revoked', 'retired')
  `;
  return rows.map((row) => row.id);
}

/** The certificate that was made for this key; a key gets one certificate. */
export async function findCertificateByKey(
  db: Queryable,
  keyThumbprint: string,
): Promise<(CertificateRow & { readonly serial: string }) | undefined> {
  const [row] = await db<(CertificateRow & { serial: string })[]>`
    select c.serial, n.id as "nodeId", n.name as "nodeName", n.state as "nodeState", c.state, c.key_thumbprint as "keyThumbprint", c.generation,
      c.chain_pem as "chainPem", c.not_after as "notAfter", c.authority
    from node_certificates c
    join nodes n on n.id = c.node_id
    where c.key_thumbprint = ${keyThumbprint}
  `;
  return row;
}

/** Once a newer certificate of the node was seen in use, the older ones are worth nothing. */
export async function supersedeOlder(db: Queryable, nodeId: string, generation: number): Promise<void> {
  await db`
    update node_certificates
    set state = 'superseded'
    where node_id = ${nodeId} and generation < ${generation} and state = 'active'
  `;
}

/** The chains of every certificate of the node that is not revoked: the keys that may have signed a result of it. */
export async function readChains(db: Queryable, nodeId: string): Promise<string[]> {
  const rows = await db<{ chainPem: string }[]>`
    select chain_pem as "chainPem"
    from node_certificates
    where node_id = ${nodeId} and state <> 'revoked'
    order by generation desc
    limit 4
  `;
  return rows.map((row) => row.chainPem);
}

/** A certificate begins a little before it is made, and a task may be signed with the one before. */
export async function readChainsAt(db: Queryable, nodeId: string, at: Date): Promise<string[]> {
  const rows = await db<{ chainPem: string }[]>`
    select chain_pem as "chainPem"
    from node_certificates
    where node_id = ${nodeId} and created_at <= ${at}::timestamptz + interval '1 minute'
    order by generation desc
    limit 4
  `;
  return rows.map((row) => row.chainPem);
}

export async function revokeCertificates(tx: Tx, nodeId: string): Promise<void> {
  await tx`update node_certificates set state = 'revoked' where node_id = ${nodeId}`;
}

/**
 * Moves the node where the table of transitions allows it, or only from `sources`. Undefined when it does not, or there is no
 * such node. A drain is forgotten unless the node is drained or, on its way back to that, down.
 */
export async function moveNode(
  tx: Tx,
  nodeId: string,
  target: NodeState,
  options: { readonly sources?: readonly NodeState[]; readonly reason?: string | null } = {},
): Promise<{ readonly version: number; readonly name: string } | undefined> {
  const { sources = sourcesOf(NODE_TRANSITIONS, target), reason = null } = options;
  const [row] = await tx<{ version: number; name: string }[]>`
    update nodes
    set state = ${target}, version = version + 1, state_since = now(),
      reason = case when state = 'down' and ${reason}::text is null then reason_before else ${reason}::text end,
      reason_before = case when ${target} = 'down' then reason end,
      down_from = case when ${target} = 'down' then state end,
      down_at = case when ${target} = 'down' then now() else down_at end,
      drain_policy = case when ${target} in ('draining', 'down') then drain_policy end,
      drain_since = case when ${target} in ('draining', 'down') then drain_since end,
      drain_stops_at = case when ${target} in ('draining', 'down') then drain_stops_at end
    where id = ${nodeId} and state in ${tx(sources)}
    returning version, name
  `;
  return row;
}

export async function lockNodeState(tx: Tx, nodeId: string): Promise<NodeState | undefined> {
  const [row] = await tx<{ state: NodeState }[]>`select state from nodes where id = ${nodeId} for update`;
  return row?.state;
}

export async function updateInventory(
  tx: Tx,
  nodeId: string,
  inventory: Inventory,
  capacity: { readonly vcpus: number; readonly memoryMib: number },
): Promise<void> {
  await tx`
    update nodes
    set facts = ${tx.json(inventory.facts)}, drivers = ${tx.json(inventory.drivers)}, gpus_simulated = ${inventory.gpusSimulated},
      agent_version = ${inventory.agentVersion}, vcpus_total = ${capacity.vcpus}, memory_mib_total = ${capacity.memoryMib}
    where id = ${nodeId}
  `;
}

/**
 * One row a GPU. A healthy GPU that nobody owns becomes available unless an operator or a failed release quarantined it; a
 * faulty one that nobody owns is quarantined; an owned one stays owned and carries the reason. One that is given in parts is
 * divided where another is available; whoever calls this settles its parts. Our own reasons begin with
 * `gpu: ` and pass with the fault. A quarantine of another origin keeps its reason whatever the GPU does meanwhile: were it
 * replaced, a slot that was never proven clean would go back into service with the next healthy report.
 */
export async function upsertSlots(tx: Tx, nodeId: string, gpus: readonly Gpu[]): Promise<void> {
  // In the order in which everybody locks cards.
  for (const gpu of gpus.toSorted((a, b) => (a.uuid < b.uuid ? -1 : 1))) {
    const reason = gpu.healthy ? null : `gpu: ${gpu.fault ?? "not healthy"}`;
    await tx`
      insert into gpu_slots (node_id, gpu_uuid, gpu_kind, gpu, state, reason)
      values (${nodeId}, ${gpu.uuid}, ${gpu.kind}, ${tx.json(gpu)}, case when ${reason}::text is null then idle_slot_state(null, ${tx.json(gpu)}) else 'quarantined' end, ${reason})
      on conflict (node_id, gpu_uuid) do update
      set gpu = excluded.gpu, gpu_kind = excluded.gpu_kind,
        state = case
          when gpu_slots.state = 'owned' then 'owned'
          when excluded.state = 'quarantined' then 'quarantined'
          when gpu_slots.reason like 'gpu: %' or gpu_slots.state <> 'quarantined' then excluded.state
          else gpu_slots.state
        end,
        reason = case
          when gpu_slots.state = 'quarantined' and coalesce(gpu_slots.reason, '') not like 'gpu: %' then gpu_slots.reason
          when excluded.reason is not null then excluded.reason
          when gpu_slots.reason like 'gpu: %' then null
          else gpu_slots.reason
        end
    `;
  }
  await tx`
    update gpu_slots
    set state = case when state = 'owned' then 'owned' else 'quarantined' end,
      reason = case
        when state = 'quarantined' and coalesce(reason, '') not like 'gpu: %' then reason
        else 'gpu: the host does not report it any more'
      end
    where node_id = ${nodeId} and card_uuid is null and not (gpu_uuid = any(${gpus.map((gpu) => gpu.uuid)}))
  `;
}

export interface Seen {
  readonly nodeId: string;
  readonly agentInstance: string;
  readonly ackedRevision: number;
  readonly trustVersion: number;
}

/** Any number nobody else uses: who writes heartbeats, one at a time, so that replicas never wait for each other in a circle. */
const HEARTBEATS_LOCK_KEY = 5_114_920_378;

/** Nodes that are heard for the first time, or by another start of the agent: one statement for all. */
export async function insertLiveness(db: Queryable, seen: readonly Seen[]): Promise<void> {
  await db`
    with turn as materialized (select pg_advisory_xact_lock(${HEARTBEATS_LOCK_KEY}))
    insert into node_liveness (node_id, last_seen_at, agent_instance, acked_rev, trust_version)
    select node_id, now(), agent_instance, acked_rev, trust_version
    from turn, unnest(${seen.map((row) => row.nodeId)}::text[], ${seen.map((row) => row.agentInstance)}::text[],
      ${seen.map((row) => row.ackedRevision)}::bigint[], ${seen.map((row) => row.trustVersion)}::int[])
      as heard (node_id, agent_instance, acked_rev, trust_version)
    on conflict (node_id) do update
    set last_seen_at = excluded.last_seen_at, agent_instance = excluded.agent_instance, acked_rev = excluded.acked_rev,
      trust_version = excluded.trust_version
  `;
}

export interface Heard {
  readonly nodeId: string;
  readonly ackedRevision: number;
  /** How long ago it was last heard. */
  readonly agoMs: number;
}

/**
 * Nodes that are heard on, one statement for all. A plain update, because an upsert locks each row first, which doubles what goes
 * into the write-ahead log. Resolves with the nodes that were written: another replica may have heard the others later.
 */
export async function updateLiveness(db: Queryable, heard: readonly Heard[]): Promise<ReadonlySet<string>> {
  const rows = await db<{ nodeId: string }[]>`
    with turn as materialized (select pg_advisory_xact_lock(${HEARTBEATS_LOCK_KEY}))
    update node_liveness l
    set last_seen_at = now() - heard.ago_ms * interval '1 millisecond', acked_rev = heard.acked_rev
    from turn, unnest(${heard.map((row) => row.nodeId)}::text[], ${heard.map((row) => Math.round(row.agoMs))}::int[],
      ${heard.map((row) => row.ackedRevision)}::bigint[]) as heard (node_id, ago_ms, acked_rev)
    where l.node_id = heard.node_id and l.last_seen_at < now() - heard.ago_ms * interval '1 millisecond'
    returning l.node_id as "nodeId"
  `;
  return new Set(rows.map((row) => row.nodeId));
}

interface NodeRow {
  readonly id: string;
  readonly name: string;
  readonly state: NodeState;
  readonly reason: string | null;
  readonly stateSince: Date;
  readonly labels: Node["labels"];
  readonly allocationsLeft: number;
  readonly drainPolicy: DrainPolicy | null;
  readonly drainSince: Date | null;
  readonly drainStopsAt: Date | null;
  readonly facts: HostFacts | null;
  readonly drivers: Node["drivers"];
  readonly gpusSimulated: boolean;
  readonly agentVersion: string | null;
  readonly freeVcpus: number;
  readonly freeMemoryMib: number;
  readonly online: boolean;
  readonly lastSeenAt: Date | null;
  readonly certificateExpiresAt: Date | null;
  readonly createdAt: Date;
  readonly slots: readonly {
    readonly gpu: Gpu;
    readonly state: SlotState;
    readonly allocationId: string | null;
    readonly reason: string | null;
    readonly part: Node["slots"][number]["part"];
    readonly free: readonly { readonly kind: string; readonly free: number }[] | null;
  }[];
}

export async function readNodes(
  db: Queryable,
  filter: { readonly id: string | null; readonly after: string | null; readonly limit: number },
): Promise<Node[]> {
  const rows = await db<NodeRow[]>`
    select n.id, n.name, n.state, n.reason, n.state_since as "stateSince", n.labels,
      (select count(*)::int from allocations a where a.node_id = n.id and a.ended_at is null) as "allocationsLeft",
      n.drain_policy as "drainPolicy", n.drain_since as "drainSince", n.drain_stops_at as "drainStopsAt", n.facts, n.drivers, n.gpus_simulated as "gpusSimulated", n.agent_version as "agentVersion",
      greatest(n.vcpus_total - coalesce(u.vcpus, 0), 0) as "freeVcpus", greatest(n.memory_mib_total - coalesce(u.memory_mib, 0), 0) as "freeMemoryMib",
      coalesce(l.last_seen_at > now() - make_interval(secs => ${ONLINE_SECONDS}), false) as online, l.last_seen_at as "lastSeenAt",
      (select max(not_after) from node_certificates c where c.node_id = n.id and c.state = 'active') as "certificateExpiresAt",
      n.created_at as "createdAt",
      coalesce((
        select jsonb_agg(jsonb_build_object(
          'gpu', s.gpu, 'state', s.state, 'allocationId', s.allocation_id, 'reason', s.reason,
          'part', case when s.card_uuid is not null then jsonb_build_object('cardUuid', s.card_uuid, 'start', s.mig_start, 'size', s.mig_size) end,
          'free', (
            select jsonb_agg(jsonb_build_object('kind', c.gpu_kind, 'free', c.free) order by c.size desc, c.profile)
            from mig_capacity c
            where c.node_id = s.node_id and c.card_uuid = s.gpu_uuid
          )
        ) order by (s.gpu ->> 'index')::int, s.mig_start nulls first)
        from gpu_slots s
        where s.node_id = n.id
      ), '[]') as slots
    from nodes n
    left join node_liveness l on l.node_id = n.id
    left join node_usage u on u.node_id = n.id
    where (${filter.id}::text is null or n.id = ${filter.id}) and (${filter.after}::text is null or n.id > ${filter.after})
    order by n.id
    limit ${filter.limit}
  `;
  return rows.map(viewOf);
}

function viewOf(row: NodeRow): Node {
  const { freeVcpus, freeMemoryMib, drainPolicy, drainSince, drainStopsAt, ...rest } = row;
  return {
    ...rest,
    stateSince: row.stateSince.toISOString(),
    drain:
      drainPolicy === null || drainSince === null
        ? null
        : { policy: drainPolicy, since: drainSince.toISOString(), stopsAt: drainStopsAt?.toISOString() ?? null },
    drivers: [...row.drivers],
    slots: row.slots.map(({ free, ...slot }) => ({ ...slot, divided: dividedOf(slot.gpu, free) })),
    free: {
      gpus: row.slots.filter((slot) => slot.state === "available").length,
      vcpus: freeVcpus,
      memoryMib: freeMemoryMib,
    },
    lastSeenAt: row.lastSeenAt?.toISOString() ?? null,
    certificateExpiresAt: row.certificateExpiresAt?.toISOString() ?? null,
    createdAt: row.createdAt.toISOString(),
  };
}

function dividedOf(
  { mig }: Gpu,
  free: readonly { readonly kind: string; readonly free: number }[] | null,
): Node["slots"][number]["divided"] {
  return mig === undefined || free === null ? null : { units: migUnitsOf(mig.profiles), free: [...free] };
}
