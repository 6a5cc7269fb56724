import type { Queryable } from "../db/sql.ts";
import type { StoredBundle } from "./trust-store.ts";

export async function findBundles(db: Queryable): Promise<StoredBundle[]> {
  return [...(await db<StoredBundle[]>`select version, jws from trust_bundles order by version`)];
}

/** The number of the newest one; what every replica looks at often. */
export async function findNewestVersion(db: Queryable): Promise<number> {
  const [row] = await db<{ version: number }[]>`select coalesce(max(version), 0) as version from trust_bundles`;
  return row?.version ?? 0;
}

/** False when there is one with this number. */
export async function insertBundle(db: Queryable, bundle: StoredBundle): Promise<boolean> {
  const rows = await db`
    insert into trust_bundles (version, jws)
    values (${bundle.version}, ${bundle.jws})
    on conflict do nothing
    returning version
  `;
  return rows.length === 1;
}
