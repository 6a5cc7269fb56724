import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { maintainPartitions } from "../db/partitions.ts";
import type { Deps } from "../deps.ts";
import { expireIdempotencyKeys } from "../http/idempotency.ts";
import { closeIncidentsOfGoneNodes } from "../incidents/sync-incidents.ts";

const INTERVAL_MS = 3_600_000;
const RETRY_MS = 5000;
/** Our listeners' certificates live 30 days and are made anew each week. */
const CERTIFICATE_ROUNDS = 7 * 24;

/** Hourly, on every replica: partitions made ahead and dropped, old idempotency keys forgotten, our own certificates renewed in time. */
export async function runHousekeeping(
  deps: Pick<Deps, "sql" | "clock" | "log">,
  options: { readonly signal: AbortSignal; onStatus(status: string): void; renewServerCertificates(): void },
): Promise<void> {
  for (let round = 1; !options.signal.aborted; round += 1) {
    let waitMs = INTERVAL_MS;
    try {
      await maintainPartitions(deps.sql, deps.clock.now());
      await expireIdempotencyKeys(deps.sql);
      await closeIncidentsOfGoneNodes(deps);
      if (round % CERTIFICATE_ROUNDS === 0) options.renewServerCertificates();
      options.onStatus(`last round at ${deps.clock.now().toISOString()}`);
    } catch (error) {
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, "housekeeping round failed");
      options.onStatus(`waiting: ${describeError(error)}`);
      waitMs = RETRY_MS;
    }
    await deps.clock.sleep(waitMs, options.signal).catch((error: unknown) => {
      if (!isAborted(error, options.signal)) throw error;
    });
  }
}
