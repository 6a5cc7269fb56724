import type { Clock } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { Log } from "../log.ts";
import { isDifference, type Row } from "../reconcile/model.ts";
import type { Reconciler } from "../reconcile/reconciler.ts";
import type { Loop } from "./supervise.ts";

/**
 * Compares the host with its own books, right after the start and every minute. Slower than the list of slices, which tells machines that
 * died: this is about what is left over, which waits for nobody. Each difference is a line in the log when it comes and
 * when it goes, and not in between.
 */
export function reconcileLoop(deps: {
  readonly reconciler: Pick<Reconciler, "reconcile">;
  readonly clock: Clock;
  readonly log: Log;
}): Loop {
  const { reconciler, clock, log } = deps;
  return {
    name: "reconcile",
    run: async (setStatus, signal) => {
      let told = new Map<string, Row>();
      // What the agent before this one left half done goes on first: a dozen programs beside it would make it wait.
      await clock.sleep(FIRST_LOOK_MS, signal);
      for (;;) {
        try {
          const report = await reconciler.reconcile(signal);
          const adopted = report.rows.filter((row) => row.verdict === "adopted");
          if (adopted.length > 0) log.info({ machines: adopted.length }, "took over what ran on without an agent");
          for (const row of report.undone.filter(({ at }) => at === report.lookedAt))
            log.warn(fieldsOf(row), "removed what was left of a finished slice");
          told = tell(log, told, report.rows);
          setStatus(statusOf(report.rows));
        } catch (error) {
          signal.throwIfAborted();
          log.warn({ error: describeError(error) }, "the host could not be compared with its books, will retry");
          setStatus(`not compared: ${describeError(error)}`);
        }
        await clock.sleep(PAUSE_MS, signal);
      }
    },
  };
}

const FIRST_LOOK_MS = 1000;
const PAUSE_MS = 60_000;
/** Told at once in one look; what is beyond is told by `hostler-agent inspect`. */
const TOLD_MAX = 50;

/** Resolves with what is known in the log now. */
function tell(log: Log, told: ReadonlyMap<string, Row>, rows: readonly Row[]): Map<string, Row> {
  const now = new Map(rows.filter(isDifference).map((row) => [`${row.kind} ${row.name} ${row.verdict}`, row]));
  const fresh = [...now].filter(([key]) => !told.has(key));
  for (const [, row] of fresh.slice(0, TOLD_MAX))
    log.warn({ ...fieldsOf(row), remedy: row.remedy }, "difference on the host");
  if (fresh.length > TOLD_MAX)
    log.warn({ more: fresh.length - TOLD_MAX }, "more differences; see: hostler-agent inspect");
  for (const [key, row] of told) if (!now.has(key)) log.info(fieldsOf(row), "difference on the host is gone");
  return now;
}

function fieldsOf({ kind, name, owner, verdict, why }: Row): Record<string, unknown> {
  return { kind, name, owner, verdict, why };
}

function statusOf(rows: readonly Row[]): string {
  const differences = rows.filter(isDifference).length;
  if (differences === 0) return `${rows.length} things, all as they should be`;
  return `${rows.length} things, ${differences} not as they should be; see: hostler-agent inspect`;
}
