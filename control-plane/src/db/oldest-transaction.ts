import type { Queryable } from "./sql.ts";

/**
 * How old the oldest transaction is whose snapshot keeps vacuum from removing dead rows, on the whole server, in seconds; 0 when
 * there is none. What other roles do is seen only by a role with `pg_read_all_stats`.
 */
export async function readOldestSnapshotAge(db: Queryable): Promise<number> {
  const [row] = await db<{ seconds: number }[]>`
    select coalesce(max(extract(epoch from clock_timestamp() - since)), 0)::float8 as seconds
    from (
      select xact_start as since from pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid()
      union all
      select prepared from pg_prepared_xacts
    ) as holders
  `;
  return Math.max(0, row?.seconds ?? 0);
}
