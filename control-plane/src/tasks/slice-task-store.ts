import type { TaskKind } from "@hostler/shared/tasks.ts";
import type { Queryable } from "../db/sql.ts";

/** Kinds of task that change what a host has. */
const SLICE_KINDS: readonly TaskKind[] = ["slice.vm_provision", "slice.vm_repair", "slice.vm_release", "slice.remove"];

export interface SliceTasks {
  readonly allocationId: string;
  /** The highest sequence of those that were granted and ended lately; 0 when there is none. */
  readonly lastSeq: number;
  /** Whether one waits or is held: then what the host shows is on its way. */
  readonly hasLive: boolean;
}

/**
 * No list is on its way for longer. Without an end, a host that was restored from a backup, and has not taken the latest tasks
 * for all that it remembers, would not be believed until its next task.
 */
const LATELY_SECONDS = 15 * 60;

/** What tasks have done and are doing to slices on a node; allocations without any are left out. */
export async function readSliceTasks(
  db: Queryable,
  filter: { readonly nodeId: string; readonly allocationIds: readonly string[] },
): Promise<SliceTasks[]> {
  const { nodeId, allocationIds } = filter;
  const rows = await db<{ allocationId: string; lastSeq: string; hasLive: boolean }[]>`
    with about as (
      select target_id, true as is_live, seq
      from tasks
      where target_id = any(${[...allocationIds]}) and node_id = ${nodeId} and kind = any(${[...SLICE_KINDS]})
      union all
      select target_id, false, seq
      from task_history
      where target_id = any(${[...allocationIds]}) and node_id = ${nodeId} and kind = any(${[...SLICE_KINDS]})
        and ended_at > now() - make_interval(secs => ${LATELY_SECONDS})
    )
    select target_id as "allocationId", bool_or(is_live) as "hasLive", coalesce(max(seq), 0)::text as "lastSeq"
    from about
    group by target_id
  `;
  return rows.map((row) => ({ ...row, lastSeq: Number(row.lastSeq) }));
}
