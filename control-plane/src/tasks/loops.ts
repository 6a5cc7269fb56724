import { LEASE_TTL_MS } from "@hostler/shared/node-protocol.ts";
import type { Deps } from "../deps.ts";
import { runLoop, type LoopOptions } from "../loops/run-loop.ts";
import { wasReplicaLost } from "../nodes/lost-replica.ts";
import { endExpiredTasks, endLapsedLeases } from "./lose-holders.ts";
import { pauseAfterLook } from "./pause-after-look.ts";
import { findOverdue, prolongAllLeases } from "./store.ts";

const INTERVAL_MS = 1000;
/** A gap in our own rounds longer than this share of a lease means that we, or the database, were away: no lease ends because of it. */
const OUTAGE_SHARE = 1 / 6;

/**
 * Ends what nobody ends. Each second: leases that lapsed go back to `ready` (their next grant has a higher fence) or are dead, and
 * tasks that no node picked up in time end. After an outage of ours every lease is prolonged first, and while the nodes of a replica
 * that was lost come back to us, a lease that is over in the tables may still be renewed by who holds it.
 */
export async function runTaskLoop(
  deps: Pick<Deps, "sql" | "clock" | "wake" | "log" | "leaseTtlMs">,
  options: LoopOptions,
): Promise<void> {
  const { leaseTtlMs = LEASE_TTL_MS } = deps;
  const outageMs = Math.max(2 * INTERVAL_MS, leaseTtlMs * OUTAGE_SHARE);
  let lastRoundMs = deps.clock.monotonicMs();
  let tookMs = 0;
  await runLoop(deps, options, {
    begin: "with a pause",
    // Longer would look like an outage to the next round.
    pause: async () =>
      await deps.clock.sleep(pauseAfterLook(tookMs, { leastMs: INTERVAL_MS, mostMs: outageMs / 2 }), options.signal),
    failure: "task loop round failed",
    round: async () => {
      if (deps.clock.monotonicMs() - lastRoundMs > outageMs) {
        const prolonged = await prolongAllLeases(deps.sql, leaseTtlMs);
        deps.log.info({ leases: prolonged }, "back after an outage; leases were prolonged");
      }
      const beganMs = deps.clock.monotonicMs();
      const overdue = await findOverdue(deps.sql);
      tookMs = deps.clock.monotonicMs() - beganMs;
      const ended =
        (overdue.hasLapsed ? await endLeases(deps) : 0) + (overdue.hasExpired ? await endExpiredTasks(deps) : 0);
      lastRoundMs = deps.clock.monotonicMs();
      return `last round ended ${ended} leases or tasks`;
    },
  });
}

/** Resolves with how many ended. */
export async function endLeases(deps: Pick<Deps, "sql" | "clock" | "wake" | "log">): Promise<number> {
  return (await wasReplicaLost(deps.sql)) ? 0 : await endLapsedLeases(deps);
}
