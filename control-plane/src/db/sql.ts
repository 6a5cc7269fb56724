import type postgres from "postgres";

/** The pool. Only stores, `db/` and use cases that open a transaction hold one. */
export type Sql = postgres.Sql;
/** One transaction. What is awaited inside uses this and never the pool: mixing them deadlocks a small pool. */
export type Tx = postgres.TransactionSql;
/** Where a store function runs its statements: in the caller's transaction, or each on its own. */
export type Queryable = Sql | Tx;
