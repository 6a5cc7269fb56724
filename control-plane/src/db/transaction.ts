import type { Sql, Tx } from "./sql.ts";

/**
 * Runs `work` in one transaction and resolves with its result after the commit. A thrown error rolls back. Inside, use only
 * the `tx` that you are given; call `wake` after this resolved, never inside.
 */
export async function inTransaction<Result>(sql: Sql, work: (tx: Tx) => Promise<Result>): Promise<Result> {
  // `begin` types its result as unwrapped promises of arrays; a value in an object keeps its own type.
  const { result } = await sql.begin(async (tx) => ({ result: await work(tx) }));
  return result;
}
