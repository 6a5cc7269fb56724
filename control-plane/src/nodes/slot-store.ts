import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { SlotState } from "@hostler/shared/states.ts";
import type { Tx } from "../db/sql.ts";

/** How the reason of a slot begins that something holds on the host which nobody here gave it to. */
export const HELD = "orphan: ";

export interface HeldGpus {
  /** The slice that holds them, in words. */
  readonly holder: string;
  readonly gpuUuids: readonly string[];
}

export interface HeldSlot {
  readonly uuid: string;
  readonly reason: string;
}

/**
 * Keeps free slots of the node out of service while something on the host still holds their GPUs, and gives back those that were
 * held so and are not any more. A slot that is owned, or quarantined for another reason, stays what it is. Resolves with the
 * GPUs that changed.
 */
export async function syncHeldSlots(tx: Tx, nodeId: string, rows: readonly HeldSlot[]): Promise<string[]> {
  const uuids = rows.map((row) => row.uuid);
  const kept = await tx<{ uuid: string }[]>`
    update gpu_slots s
    set state = 'quarantined', reason = h.reason
    from unnest(${uuids}::text[], ${rows.map((row) => row.reason)}::text[]) as h (uuid, reason)
    where s.node_id = ${nodeId} and s.gpu_uuid = h.uuid and s.state in ('available', 'divided')
    returning s.gpu_uuid as uuid
  `;
  const given = await tx<{ uuid: string }[]>`
    update gpu_slots
    set state = case when (gpu ->> 'healthy')::boolean then idle_slot_state(card_uuid, gpu) else 'quarantined' end,
      reason = case when (gpu ->> 'healthy')::boolean then null else 'gpu: ' || coalesce(gpu ->> 'fault', 'not healthy') end
    where node_id = ${nodeId} and card_uuid is null and state = 'quarantined' and starts_with(reason, ${HELD})
      and not (gpu_uuid = any(${uuids}))
    returning gpu_uuid as uuid
  `;
  return [...kept, ...given].map((row) => row.uuid);
}

export interface SlotRow {
  readonly state: SlotState;
  readonly reason: string | null;
  readonly gpu: Gpu;
  /** Something on the host holds the GPU that nobody here gave it to. */
  readonly isHeld: boolean;
}

/** Undefined when the node has no such GPU. */
export async function lockSlot(tx: Tx, nodeId: string, gpuUuid: string): Promise<SlotRow | undefined> {
  const [row] = await tx<SlotRow[]>`
    select state, reason, gpu, starts_with(coalesce(reason, ''), ${HELD}) as "isHeld"
    from gpu_slots
    where node_id = ${nodeId} and gpu_uuid = ${gpuUuid}
    for update
  `;
  return row;
}

/** The caller holds its lock, has seen it quarantined, and settles its card. */
export async function makeSlotAvailable(tx: Tx, nodeId: string, gpuUuid: string): Promise<void> {
  await tx`
    update gpu_slots
    set state = idle_slot_state(card_uuid, gpu), reason = null
    where node_id = ${nodeId} and gpu_uuid = ${gpuUuid} and state = 'quarantined'
  `;
}
