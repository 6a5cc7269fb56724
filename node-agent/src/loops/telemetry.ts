import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { TelemetrySample } from "@hostler/shared/node-protocol.ts";
import type { Log } from "../log.ts";
import type { ControlPlane } from "../ports/control-plane.ts";
import { makeSpool } from "../telemetry/spool.ts";
import type { Loop } from "./supervise.ts";

/**
 * A sample every ten seconds, counted from the start so that a slow one does not shift the rest. While the control plane
 * is away samples wait in the spool; a sample sent twice is stored once, so a lost answer is no matter.
 */
export function telemetryLoop(deps: {
  readonly controlPlane: Pick<ControlPlane, "sendTelemetry">;
  readonly readSample: (signal: AbortSignal) => Promise<TelemetrySample>;
  readonly clock: Clock;
  readonly log: Log;
}): Loop {
  const { controlPlane, readSample, clock, log } = deps;
  const spool = makeSpool();
  return {
    name: "telemetry",
    run: async (setStatus, signal) => {
      for (let dueAtMs = clock.monotonicMs(); ; dueAtMs = Math.max(dueAtMs + PERIOD_MS, clock.monotonicMs())) {
        await clock.sleep(Math.max(0, dueAtMs - clock.monotonicMs()), signal);
        spool.add(await readSample(signal));
        const batch = spool.peek();
        try {
          await controlPlane.sendTelemetry(batch, signal);
          spool.drop(batch);
          setStatus("sending every 10 s");
        } catch (error) {
          signal.throwIfAborted();
          if (spool.size === 1) log.warn({ error: describeError(error) }, "telemetry not sent, spooling");
          setStatus(`${spool.size} samples wait: ${describeError(error)}`);
        }
      }
    },
  };
}

const PERIOD_MS = 10_000;
