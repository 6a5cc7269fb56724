import { TRUST_TOPIC } from "../db/wake-bus.ts";
import { runLoop, type LoopOptions } from "../loops/run-loop.ts";
import type { RotateDeps } from "./rotate-authorities.ts";
import { findNewestVersion } from "./store.ts";
import type { Deps } from "../deps.ts";

/** A rotation on another replica is in force here within this time, also when its wake-up was lost. */
const INTERVAL_MS = 1000;

/** Takes over rotations that other replicas did. */
export async function followRotations(deps: RotateDeps & Pick<Deps, "log">, options: LoopOptions): Promise<void> {
  await runLoop(deps, options, {
    begin: "with a round",
    round: async () => {
      const newest = await findNewestVersion(deps.sql);
      if (newest > deps.pki.trust.bundle.version && (await deps.pki.refresh())) deps.applyTrust();
      return `trust bundle ${deps.pki.trust.bundle.version}`;
    },
    pause: async () => await deps.wake.wait(TRUST_TOPIC, INTERVAL_MS, options.signal),
    failure: "trust bundles not read, in a second again",
  });
}
