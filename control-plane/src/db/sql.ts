import type postgres from "postgres";

/** The pool. Only stores, `db/` and use cases that open a transaction hold one. */
export type Sql = postgres.Sql;
/** One transaction. What is awaited inside uses this and never the pool: mixing them deadlocks a small pool. */
export type Tx = postgres.TransactionSql;
/** Where a store function runs its statements: in the caller's transaction, or each on its own. */
export type Queryable = Sql | Tx;

/**
 * The ids of a batch as a set: `id in ${idSet(db, ids)}`, where statements are planned each time. PostgreSQL sees how long an array is and
 * so plans a statement with one anew at each execution, which takes longer than to look up what it asks for.
 */
export function idSet(db: Queryable, ids: readonly string[]) {
  return db`(select jsonb_array_elements_text(${db.json([...ids])}))`;
}
