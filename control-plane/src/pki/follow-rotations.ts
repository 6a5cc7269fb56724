import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { TRUST_TOPIC } from "../db/wake-bus.ts";
import type { RotateDeps } from "./rotate-authorities.ts";
import { findNewestVersion } from "./store.ts";
import type { Deps } from "../deps.ts";

/** A rotation on another replica is in force here within this time, also when its wake-up was lost. */
const INTERVAL_MS = 1000;

/** Takes over rotations that other replicas did. */
export async function followRotations(
  deps: RotateDeps & Pick<Deps, "log">,
  options: { readonly signal: AbortSignal; onStatus(status: string): void },
): Promise<void> {
  while (!options.signal.aborted) {
    try {
      const newest = await findNewestVersion(deps.sql);
      if (newest > deps.pki.trust.bundle.version && (await deps.pki.refresh())) deps.applyTrust();
      options.onStatus(`trust bundle ${deps.pki.trust.bundle.version}`);
    } catch (error) {
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, "trust bundles not read, in a second again");
      options.onStatus(`waiting: ${describeError(error)}`);
    }
    await deps.wake.wait(TRUST_TOPIC, INTERVAL_MS, options.signal).catch((error: unknown) => {
      if (!isAborted(error, options.signal)) throw error;
    });
  }
}
