import type { MigTaken } from "@hostler/shared/mig/plan-mig.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { SlotState } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export interface CardKey {
  readonly nodeId: string;
  readonly cardUuid: string;
}

export interface CardRow extends CardKey {
  readonly gpu: Gpu;
  readonly state: SlotState;
}

export interface PartRow extends CardKey, MigTaken {
  readonly slotId: string;
  readonly state: SlotState;
  readonly reason: string | null;
}

/** A part that gets a row: one that a request is given, or one that something on the host holds. */
export interface NewPart extends CardKey {
  readonly place: MigTaken;
  readonly gpu: Gpu;
  readonly state: "available" | "quarantined";
  readonly reason: string | null;
}

/** Locks the rows of the cards until the commit, waiting for each, in the order of their names. */
export async function lockCards(tx: Tx, cards: readonly CardKey[]): Promise<CardRow[]> {
  return await tx<CardRow[]>`
    select s.node_id as "nodeId", s.gpu_uuid as "cardUuid", s.gpu, s.state
    from gpu_slots s
    join ${keysOf(tx, cards)} on s.node_id = key."nodeId" and s.gpu_uuid = key."cardUuid"
    where s.card_uuid is null
    order by s.node_id, s.gpu_uuid
    for update of s
  `;
}

/** Locks the cards of the nodes that had places of the kind free, but those that another transaction changes now. */
export async function lockFreeCards(tx: Tx, nodeIds: readonly string[], kind: string): Promise<CardRow[]> {
  return await tx<CardRow[]>`
    select s.node_id as "nodeId", s.gpu_uuid as "cardUuid", s.gpu, s.state
    from gpu_slots s
    join mig_capacity c on c.node_id = s.node_id and c.card_uuid = s.gpu_uuid and c.gpu_kind = ${kind}
    where s.node_id = any(${[...nodeIds]}) and s.state = 'divided' and c.free > 0
    order by s.node_id, s.gpu_uuid
    for update of s skip locked
  `;
}

/** What lies on the cards, by the left. */
export async function readParts(db: Queryable, cards: readonly CardKey[]): Promise<PartRow[]> {
  return await db<PartRow[]>`
    select s.node_id as "nodeId", s.card_uuid as "cardUuid", s.gpu_uuid as "slotId", s.state, s.reason, s.mig_profile as "profileId",
      s.mig_start as start, s.mig_size as size
    from gpu_slots s
    join ${keysOf(db, cards)} on s.node_id = key."nodeId" and s.card_uuid = key."cardUuid"
    order by s.node_id, s.card_uuid, s.mig_start
  `;
}

/** The cards of the node that are given in parts, were, or have parts that are not back yet. */
export async function readCardKeys(db: Queryable, nodeId: string): Promise<CardKey[]> {
  return await db<CardKey[]>`
    select node_id as "nodeId", gpu_uuid as "cardUuid" from gpu_slots where node_id = ${nodeId} and card_uuid is null and gpu ? 'mig'
    union
    select node_id, card_uuid from gpu_slots where node_id = ${nodeId} and card_uuid is not null
    union
    select node_id, card_uuid from mig_capacity where node_id = ${nodeId}
  `;
}

/** The caller holds the cards. */
export async function insertParts(tx: Tx, parts: readonly NewPart[]): Promise<void> {
  if (parts.length === 0) return;
  await tx`
    insert into gpu_slots (node_id, gpu_uuid, gpu_kind, gpu, state, reason, card_uuid, mig_profile, mig_start, mig_size)
    select "nodeId", gpu ->> 'uuid', gpu ->> 'kind', gpu, state, reason, "cardUuid", (place ->> 'profileId')::int, (place ->> 'start')::int,
      (place ->> 'size')::int
    from jsonb_to_recordset(${tx.json(parts as never)}) as part ("nodeId" text, "cardUuid" text, gpu jsonb, state text, reason text, place jsonb)
  `;
}

/** Takes the quarantine from parts that something held; the caller holds their cards, and settles them. */
export async function freeParts(tx: Tx, nodeId: string, slotIds: readonly string[]): Promise<void> {
  await tx`
    update gpu_slots
    set state = 'available', reason = null
    where node_id = ${nodeId} and gpu_uuid = any(${[...slotIds]}) and card_uuid is not null and state = 'quarantined'
  `;
}

/** The places of parts that are nobody's any more are free by having no row. The caller holds the cards. */
export async function deleteFreeParts(tx: Tx, cards: readonly CardKey[]): Promise<void> {
  await tx`
    delete from gpu_slots s
    using ${keysOf(tx, cards)}
    where s.node_id = key."nodeId" and s.card_uuid = key."cardUuid" and s.state = 'available'
  `;
}

/** A card with parts is not handed out whole, also when its operator takes it back from MIG; one without is what it says. */
export async function settleCardStates(tx: Tx, cards: readonly CardKey[]): Promise<void> {
  await tx`
    with wanted as (
      select s.node_id, s.gpu_uuid,
        case
          when exists (select from gpu_slots p where p.node_id = s.node_id and p.card_uuid = s.gpu_uuid) then 'divided'
          else idle_slot_state(null, s.gpu)
        end as state
      from gpu_slots s
      join ${keysOf(tx, cards)} on s.node_id = key."nodeId" and s.gpu_uuid = key."cardUuid"
      where s.card_uuid is null and s.state in ('available', 'divided')
    )
    update gpu_slots s
    set state = wanted.state
    from wanted
    where s.node_id = wanted.node_id and s.gpu_uuid = wanted.gpu_uuid and s.state <> wanted.state
  `;
}

/** Parts that are owned carry the fault of their card. The caller holds the cards. */
export async function markParts(tx: Tx, cards: readonly CardKey[]): Promise<void> {
  await tx`
    update gpu_slots p
    set reason = case when s.reason like 'gpu: %' then s.reason end
    from gpu_slots s
    join ${keysOf(tx, cards)} on s.node_id = key."nodeId" and s.gpu_uuid = key."cardUuid"
    where p.node_id = s.node_id and p.card_uuid = s.gpu_uuid and p.state = 'owned'
      and p.reason is distinct from case when s.reason like 'gpu: %' then s.reason end
  `;
}

export interface CapacityRow extends CardKey {
  readonly kind: string;
  readonly profile: string;
  readonly size: number;
  readonly free: number;
}

/** Writes what differs, and forgets what the cards do not offer any more. The caller holds the cards. */
export async function saveCapacity(tx: Tx, cards: readonly CardKey[], rows: readonly CapacityRow[]): Promise<void> {
  await tx`
    delete from mig_capacity c
    using ${keysOf(tx, cards)}
    where c.node_id = key."nodeId" and c.card_uuid = key."cardUuid"
      and not exists (
        select from jsonb_to_recordset(${tx.json(rows as never)}) as row ("nodeId" text, "cardUuid" text, kind text)
        where row."nodeId" = c.node_id and row."cardUuid" = c.card_uuid and row.kind = c.gpu_kind
      )
  `;
  if (rows.length === 0) return;
  await tx`
    insert into mig_capacity as c (node_id, card_uuid, gpu_kind, profile, size, free)
    select "nodeId", "cardUuid", kind, profile, size, free
    from jsonb_to_recordset(${tx.json(rows as never)}) as row ("nodeId" text, "cardUuid" text, kind text, profile text, size int, free int)
    order by "nodeId", "cardUuid", kind
    on conflict (node_id, card_uuid, gpu_kind) do update
    set profile = excluded.profile, size = excluded.size, free = excluded.free
    where (c.profile, c.size, c.free) is distinct from (excluded.profile, excluded.size, excluded.free)
  `;
}

function keysOf(db: Queryable, cards: readonly CardKey[]) {
  const nodeIds = cards.map((card) => card.nodeId);
  const cardUuids = cards.map((card) => card.cardUuid);
  return db`(
    select distinct node_id as "nodeId", card_uuid as "cardUuid" from unnest(${nodeIds}::text[], ${cardUuids}::text[]) as given (node_id, card_uuid)
  ) as key`;
}
