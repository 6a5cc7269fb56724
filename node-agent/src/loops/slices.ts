import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { SliceInventory } from "../inventory/slice-inventory.ts";
import type { Log } from "../log.ts";
import type { ControlPlane } from "../ports/control-plane.ts";
import type { Loop } from "./supervise.ts";

/**
 * Looks at the slices of this host, and tells what is there: at the start, when it changed, when the control plane asks, and
 * every five minutes. A change that nobody ordered (a machine that was killed) is seen by the next look, at most ten seconds
 * later; the end of a task is looked at at once.
 */
export function slicesLoop(deps: {
  readonly controlPlane: Pick<ControlPlane, "sendSlices">;
  readonly slices: SliceInventory;
  /** Resolves when the next task ends. */
  readonly taskEnded: () => Promise<void>;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
}): Loop {
  const { controlPlane, slices, clock, log } = deps;
  return {
    name: "slices",
    run: async (setStatus, signal) => {
      let sent: { readonly digest: string; readonly againAtMs: number } | null = null;
      for (;;) {
        // Taken before the look: a task that ends during it is looked at again.
        const ended = deps.taskEnded();
        try {
          const { asks, isAsked } = slices;
          const report = await slices.look(signal);
          const isDue = isAsked || report.digest !== sent?.digest || clock.monotonicMs() >= sent.againAtMs;
          if (isDue) {
            await controlPlane.sendSlices(report, signal);
            slices.answered(asks);
            const againAtMs = clock.monotonicMs() + RESEND_MS * (1 - RESEND_JITTER * deps.random());
            sent = { digest: report.digest, againAtMs };
          }
          setStatus(`${report.slices.length} slices, told as ${report.digest.slice(0, 8)}`);
        } catch (error) {
          signal.throwIfAborted();
          log.warn({ error: describeError(error) }, "slices not told, will retry");
          setStatus(`not told: ${describeError(error)}`);
          await clock.sleep(RETRY_MS, signal);
          continue;
        }
        await clock.sleep(PAUSE_MS, signal);
        await untilNextLook(deps, ended, signal);
      }
    },
  };
}

/** A machine that ends by itself must be noticed within 15 s, with what telling it takes. */
const LOOK_MS = 9000;
/** Between two looks at least, however many tasks end. */
const PAUSE_MS = 1000;
const RETRY_MS = 3000;
const RESEND_MS = 5 * 60_000;
const RESEND_JITTER = 0.2;

async function untilNextLook(
  deps: { readonly slices: SliceInventory; readonly clock: Clock },
  ended: Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const over = new AbortController();
  try {
    await Promise.race([deps.clock.sleep(LOOK_MS, AbortSignal.any([signal, over.signal])), ended, deps.slices.asked()]);
  } finally {
    over.abort(new Error("over"));
  }
}
