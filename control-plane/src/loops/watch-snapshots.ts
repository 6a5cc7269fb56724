import { readOldestSnapshotAge } from "../db/oldest-transaction.ts";
import type { Deps } from "../deps.ts";
import { runLoop, type LoopOptions } from "./run-loop.ts";

const INTERVAL_MS = 30_000;
/** Our own transactions end before that; an older one is somebody's session, a backup or a forgotten prepared transaction. */
const AGE_MAX_SECONDS = 60;

/** Warns while a transaction is so old that dead rows pile up behind it, which slows every queue in the database. */
export async function watchSnapshots(deps: Pick<Deps, "sql" | "clock" | "log">, options: LoopOptions): Promise<void> {
  await runLoop(deps, options, {
    begin: "with a round",
    round: async () => await checkSnapshots(deps),
    pause: async () => await deps.clock.sleep(INTERVAL_MS, options.signal),
    failure: "the age of transactions was not read",
  });
}

/** Resolves with a line for the status. */
export async function checkSnapshots(
  deps: Pick<Deps, "sql" | "log">,
  ageMaxSeconds: number = AGE_MAX_SECONDS,
): Promise<string> {
  const seconds = Math.round(await readOldestSnapshotAge(deps.sql));
  if (seconds > ageMaxSeconds) {
    deps.log.warn({ seconds }, "an old transaction keeps dead rows from being removed; find it in pg_stat_activity");
  }
  return `the oldest transaction is ${seconds} s old`;
}
