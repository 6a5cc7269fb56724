import { backoffMs } from "@hostler/shared/backoff.ts";
import type { Clock } from "@hostler/shared/clock.ts";
import { describeError, ERRORS, isAppError } from "@hostler/shared/errors.ts";
import type { Log } from "../log.ts";
import type { ControlPlane } from "../ports/control-plane.ts";
import type { NodeIdentity } from "../ports/node-keys.ts";
import type { Outbox, OutboxEntry } from "./outbox.ts";

interface DeliveryDeps {
  readonly controlPlane: Pick<ControlPlane, "sendResult">;
  readonly identity: Pick<NodeIdentity, "signResult">;
  readonly outbox: Outbox;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
}

const RETRY = { firstMs: 200, maxMs: 10_000 };

/**
 * Delivers one outcome, however long the control plane is away. Ends when it was accepted (the file goes), when another
 * grant owns the task or the control plane refuses it for good (the file stays, undelivered), or when `signal` aborts.
 */
export async function deliverResult(deps: DeliveryDeps, entry: OutboxEntry, signal: AbortSignal): Promise<void> {
  const { taskId, fence } = entry;
  for (let attempt = 1; !signal.aborted; attempt += 1) {
    try {
      // Signed at each try: the identity may have been renewed since the last one.
      const resultJws = await deps.identity.signResult({ jti: taskId, tdig: entry.tdig, fence, ...entry.outcome });
      await deps.controlPlane.sendResult({ taskId, resultJws, events: entry.events, signal });
      if ((await deps.outbox.get(taskId))?.fence === fence) await deps.outbox.remove(taskId);
      deps.log.info({ taskId, fence, outcome: entry.outcome.outcome }, "result accepted");
      return;
    } catch (error) {
      if (signal.aborted) return;
      if (isRefusal(error)) {
        deps.log.warn(
          { taskId, fence, outcome: entry.outcome.outcome, error: describeError(error) },
          "result dropped: the control plane does not take it",
        );
        if ((await deps.outbox.get(taskId))?.fence === fence) await deps.outbox.put({ ...entry, isDeliverable: false });
        return;
      }
      deps.log.warn({ taskId, fence, attempt, error: describeError(error) }, "result not delivered, will retry");
      await deps.clock.sleep(backoffMs(RETRY, attempt, deps.random), signal).catch(() => "The loop sees the signal.");
    }
  }
}

/** The control plane understood and said no: repeating it changes nothing. Trouble on its side (5xx) or with our certificate (401) may pass. */
function isRefusal(error: unknown): boolean {
  if (!isAppError(error)) return false;
  const { status, retriable } = ERRORS[error.code];
  return !retriable && status < 500 && status !== 401;
}
