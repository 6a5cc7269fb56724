import type { Quota, QuotaUsage } from "@hostler/shared/api/allocations.ts";
import type { Queryable, Tx } from "../db/sql.ts";

export async function readQuota(db: Queryable, projectId: string): Promise<Quota | undefined> {
  const [row] = await db<Quota[]>`
    select gpus_max as gpus, vcpus_max as vcpus, memory_mib_max as "memoryMib", allocations_max as allocations
    from project_quotas
    where project_id = ${projectId}
  `;
  return row;
}

/** Undefined when the project has no limit; then it is not held up either. What is counted after it stays true until the commit. */
export async function lockQuota(tx: Tx, projectId: string): Promise<Quota | undefined> {
  const [row] = await tx<Quota[]>`
    select gpus_max as gpus, vcpus_max as vcpus, memory_mib_max as "memoryMib", allocations_max as allocations
    from project_quotas
    where project_id = ${projectId} and coalesce(gpus_max, vcpus_max, memory_mib_max, allocations_max) is not null
    for update
  `;
  return row;
}

/** What the project's live slices hold. A slice counts until its host has proven that it is gone. */
export async function readUsage(db: Queryable, projectId: string): Promise<QuotaUsage> {
  const [row] = await db<QuotaUsage[]>`
    select coalesce(sum(jsonb_array_length(gpus)), 0)::int as gpus, coalesce(sum(vcpus), 0)::int as vcpus,
      coalesce(sum(memory_mib), 0)::float8 as "memoryMib", count(*)::int as allocations
    from allocations
    where project_id = ${projectId} and ended_at is null
  `;
  if (row === undefined) throw new Error("an aggregate returned no row");
  return row;
}

export async function isProject(db: Queryable, projectId: string): Promise<boolean> {
  return (await db`select from projects where id = ${projectId}`).length === 1;
}

export async function saveQuota(tx: Tx, projectId: string, quota: Quota): Promise<void> {
  await tx`
    insert into project_quotas (project_id, gpus_max, vcpus_max, memory_mib_max, allocations_max)
    values (${projectId}, ${quota.gpus}, ${quota.vcpus}, ${quota.memoryMib}, ${quota.allocations})
    on conflict (project_id) do update
    set gpus_max = excluded.gpus_max, vcpus_max = excluded.vcpus_max, memory_mib_max = excluded.memory_mib_max,
      allocations_max = excluded.allocations_max, updated_at = now()
  `;
}
