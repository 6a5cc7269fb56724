import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { Tx } from "../db/sql.ts";

/** How the reason of a slot begins that something holds on the host which nobody here gave it to. */
const HELD = "orphan: ";

export interface HeldGpus {
  /** The slice that holds them, in words. */
  readonly holder: string;
  readonly gpuUuids: readonly string[];
}

/**
 * Keeps free slots of the node out of service while something on the host still holds their GPUs, and gives back those that were
 * held so and are not any more. A slot that is owned, or quarantined for another reason, stays what it is.
 */
export async function syncHeldSlots(tx: Tx, nodeId: string, held: readonly HeldGpus[]): Promise<void> {
  const rows = held.flatMap(({ holder, gpuUuids }) => gpuUuids.map((uuid) => ({ uuid, reason: `${HELD}${holder}` })));
  const uuids = rows.map((row) => row.uuid);
  await tx`
    update gpu_slots s
    set state = 'quarantined', reason = h.reason
    from unnest(${uuids}::text[], ${rows.map((row) => row.reason)}::text[]) as h (uuid, reason)
    where s.node_id = ${nodeId} and s.gpu_uuid = h.uuid and s.state = 'available'
  `;
  await tx`
    update gpu_slots
    set state = case when (gpu ->> 'healthy')::boolean then 'available' else 'quarantined' end,
      reason = case when (gpu ->> 'healthy')::boolean then null else 'gpu: ' || coalesce(gpu ->> 'fault', 'not healthy') end
    where node_id = ${nodeId} and state = 'quarantined' and starts_with(reason, ${HELD}) and not (gpu_uuid = any(${uuids}))
  `;
}

export interface SlotRow {
  readonly state: "available" | "owned" | "quarantined";
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

/** The caller holds its lock and has seen it quarantined. */
export async function makeSlotAvailable(tx: Tx, nodeId: string, gpuUuid: string): Promise<void> {
  await tx`
    update gpu_slots
    set state = 'available', reason = null
    where node_id = ${nodeId} and gpu_uuid = ${gpuUuid} and state = 'quarantined'
  `;
}
