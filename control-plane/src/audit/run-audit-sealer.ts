import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import type { Deps } from "../deps.ts";
import { SEAL_LIMITS, sealAudit, type SealDeps } from "./seal-audit.ts";

const INTERVAL_MS = 1000;

/**
 * Seals the audit log, each second and without a pause while there is a backlog. It runs on every replica; one at a time seals,
 * the others look on and go on when that one is gone. A failure is logged once, and again when it changes.
 */
export async function runAuditSealer(
  deps: SealDeps & Pick<Deps, "log">,
  options: { readonly signal: AbortSignal; onStatus(status: string): void },
): Promise<void> {
  let lastFailure = "";
  while (!options.signal.aborted) {
    try {
      const outcome = await sealAudit(deps);
      lastFailure = "";
      options.onStatus(
        outcome === null
          ? "another replica seals"
          : `sealed to position ${outcome.lastPosition}, signed to ${outcome.checkpointPosition}`,
      );
      if (outcome?.sealed !== SEAL_LIMITS.batchMax) await deps.clock.sleep(INTERVAL_MS, options.signal);
    } catch (error) {
      if (isAborted(error, options.signal)) return;
      const failure = describeError(error);
      if (!isDatabaseAway(error) && failure !== lastFailure) deps.log.error({ err: error }, "audit log was not sealed");
      lastFailure = failure;
      options.onStatus(`waiting: ${failure}`);
      await deps.clock.sleep(INTERVAL_MS, options.signal).catch((abort: unknown) => {
        if (!isAborted(abort, options.signal)) throw abort;
      });
    }
  }
}
