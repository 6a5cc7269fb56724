import type { Queryable, Tx } from "../db/sql.ts";

export interface KeptReceipt {
  readonly nodeId: string;
  readonly gpuUuid: string;
  readonly taskId: string;
  readonly allocationId: string;
  readonly kind: string;
  readonly resultJws: string;
}

/** In the place of the receipts before; each slot at most once. GPUs that the node does not have are left out. */
export async function upsertReceipts(tx: Tx, receipts: readonly KeptReceipt[]): Promise<void> {
  await tx`
    insert into slot_receipts (node_id, gpu_uuid, task_id, allocation_id, kind, result_jws)
    select s.node_id, s.gpu_uuid, given."taskId", given."allocationId", given.kind, given."resultJws"
    from jsonb_to_recordset(${tx.json(receipts as never)}) as given ("nodeId" text, "gpuUuid" text, "taskId" text, "allocationId" text,
      kind text, "resultJws" text)
    join gpu_slots s on s.node_id = given."nodeId" and s.gpu_uuid = given."gpuUuid"
    -- One order everywhere: two that end at once wait for each other, never both.
    order by s.node_id, s.gpu_uuid
    on conflict (node_id, gpu_uuid) do update
    set task_id = excluded.task_id, allocation_id = excluded.allocation_id, kind = excluded.kind, result_jws = excluded.result_jws,
      ended_at = excluded.ended_at
  `;
}

export interface SlotWithReceipt {
  readonly gpuUuid: string;
  readonly gpuKind: string;
  readonly state: "available" | "owned" | "quarantined";
  readonly reason: string | null;
  readonly receipt: {
    readonly taskId: string;
    readonly allocationId: string;
    readonly kind: string;
    readonly resultJws: string;
    /** RFC 3339, as PostgreSQL writes it. */
    readonly endedAt: string;
  } | null;
}

/** In the order of the host's list. */
export async function listSlotsWithReceipts(db: Queryable, nodeId: string): Promise<SlotWithReceipt[]> {
  return await db<SlotWithReceipt[]>`
    select s.gpu_uuid as "gpuUuid", s.gpu_kind as "gpuKind", s.state, s.reason,
      case when r.task_id is null then null else jsonb_build_object('taskId', r.task_id, 'allocationId', r.allocation_id, 'kind', r.kind,
        'resultJws', r.result_jws, 'endedAt', r.ended_at) end as receipt
    from gpu_slots s
    left join slot_receipts r on r.node_id = s.node_id and r.gpu_uuid = s.gpu_uuid
    where s.node_id = ${nodeId}
    order by (s.gpu ->> 'index')::int, s.gpu_uuid
  `;
}
