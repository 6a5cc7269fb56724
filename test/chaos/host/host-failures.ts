import type { Sql } from "@hostler/control-plane/db/sql.ts";

/** A failure as the host told it and as the control plane took it. */
export interface HostFailure {
  readonly code: string;
  /** `transient` also when the control plane tries it again. */
  readonly class: string;
  readonly phase: string | null;
  readonly message: string;
  readonly leftovers: readonly string[];
}

/** How tries of the slice's way up ended, the newest last. */
export async function failuresOf(sql: Sql, allocationId: string): Promise<readonly HostFailure[]> {
  const ended = await sql<{ failure: HostFailure | null }[]>`
    select outcome->'failure' as failure
    from task_history
    where target_id = ${allocationId} and kind <> 'slice.vm_release'
    order by ended_at
  `;
  const retried = await sql<{ code: string; phase: string; message: string }[]>`
    select a.detail->>'code' as code, e.value->>'phase' as phase, e.value->>'message' as message
    from tasks t
    join audit_log a on a.target_id = t.id and a.action = 'task.result' and a.detail->>'outcome' = 'failed'
    join phase_reports r on r.task_id = t.id
    cross join lateral jsonb_array_elements(r.events) as e(value)
    where t.target_id = ${allocationId} and t.failures > 0 and e.value->>'status' = 'failed' and e.value->>'direction' = 'apply'
    order by r.received_at
  `;
  return [
    ...retried.map((row) => ({ ...row, class: "transient", leftovers: [] })),
    ...ended.flatMap(({ failure }) => (failure === null ? [] : [failure])),
  ];
}

/** What the phases of the slice said while they tried again by themselves. */
export async function retriesOf(sql: Sql, allocationId: string): Promise<readonly string[]> {
  const rows = await sql<{ message: string }[]>`
    select e.value->>'message' as message
    from phase_reports r
    cross join lateral jsonb_array_elements(r.events) as e(value)
    where e.value->>'status' = 'retrying' and r.task_id in (
      select id from tasks where target_id = ${allocationId}
      union select id from task_history where target_id = ${allocationId}
    )
  `;
  return rows.map(({ message }) => message);
}
