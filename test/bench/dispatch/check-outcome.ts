import type { Sql } from "@hostler/control-plane/db/sql.ts";

/** What is not as it must be after every slice was given back, one number a rule; all are 0 when nothing was lost or doubled. */
export async function checkOutcome(
  sql: Sql,
  told: { readonly created: number; readonly done: number },
): Promise<Readonly<Record<string, number>>> {
  const [row] = await sql<Record<string, number>[]>`
    select
      (select count(*)::int from allocations where state <> 'released' or version <> 5) as not_released,
      (select abs(count(*) - ${told.created})::int from allocations) as allocations_lost,
      (select abs(count(*) - ${told.done})::int from audit_log where action = 'task.result') as results_lost,
      (select count(*)::int from tasks where state in ('ready', 'leased')) as tasks_left,
      (select count(*)::int from gpu_slots where state <> 'available') as slots_left,
      (select count(*)::int from node_usage where vcpus <> 0 or memory_mib <> 0) as capacity_left,
      (
        select count(*)::int
        from allocations a
        where (select count(*) from events e where e.aggregate_id = a.id) <> a.version
          or (select count(*) from audit_log l where l.target_id = a.id and l.target_version is not null) <> a.version
      ) as changes_not_told_once
  `;
  return row ?? {};
}
