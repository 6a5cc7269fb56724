import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { Deps } from "../deps.ts";

/** Our listeners' certificates live 30 days and are made anew each week. */
const INTERVAL_MS = 7 * 24 * 3_600_000;
const RETRY_MS = 60_000;

/** On every replica, because each has listeners of its own: what all replicas share is a job (`jobs/maintenance-jobs.ts`). */
export async function renewOwnCertificates(
  deps: Pick<Deps, "clock" | "log">,
  options: { readonly signal: AbortSignal; onStatus(status: string): void; renew(): void },
): Promise<void> {
  let waitMs = INTERVAL_MS;
  options.onStatus("as made at the start");
  for (;;) {
    try {
      await deps.clock.sleep(waitMs, options.signal);
      options.renew();
      waitMs = INTERVAL_MS;
      options.onStatus(`renewed at ${deps.clock.now().toISOString()}`);
    } catch (error) {
      if (isAborted(error, options.signal)) return;
      deps.log.error({ err: error }, "our listeners' certificates were not renewed");
      options.onStatus(`waiting: ${describeError(error)}`);
      waitMs = RETRY_MS;
    }
  }
}
