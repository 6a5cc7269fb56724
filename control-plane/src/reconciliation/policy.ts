import type { IncidentSeverity } from "@hostler/shared/api/incidents.ts";
import type { FindingKind } from "./diff-slices.ts";

/** What is done about each sort of difference. A row is all there is to change. */
export interface FindingPolicy {
  /** What brings it in order by itself; null leaves it to operators. */
  readonly correction: "repair" | "remove" | null;
  /** For how long it must have been seen before it is corrected or, without a correction, told. */
  readonly patienceMs: number;
  /** Whether it is an incident from the first sight on, or only once nothing is tried any more. */
  readonly incident: "at_once" | "when_given_up";
  readonly severity: IncidentSeverity;
  /** Whether GPUs that it holds on the host are kept from others. */
  readonly holdsGpus: boolean;
}

export interface ReconcileSettings {
  readonly policy: Readonly<Record<FindingKind, FindingPolicy>>;
  readonly triesMax: number;
  /** The pause after a try doubles from the first to the longest. */
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
  readonly escalateAfterMs: number;
  /** Corrections ordered for one list; the rest waits for the next. */
  readonly actionsMax: number;
}

const MINUTE_MS = 60_000;

export const RECONCILE_SETTINGS: ReconcileSettings = {
  policy: {
    stopped: row("repair", 0, "when_given_up", "critical"),
    // Building it anew gives the tenant an empty disk, and after a restored database one that was released: a person decides.
    gone: row(null, 0, "at_once", "critical"),
    // A machine that is slow to answer is not a dead one: it is never ended for that.
    unclear: row(null, MINUTE_MS, "at_once", "warning"),
    orphan: { ...row("remove", 10 * MINUTE_MS, "at_once", "warning"), holdsGpus: true },
    zombie: { ...row("remove", 10 * MINUTE_MS, "at_once", "warning"), holdsGpus: true },
    // From before a restored backup, or from nowhere: never removed but by an operator.
    unknown: { ...row(null, 0, "at_once", "critical"), holdsGpus: true },
    // Nothing of this can be put right under a machine that runs.
    drift: row(null, 0, "at_once", "warning"),
  },
  triesMax: 5,
  firstPauseMs: MINUTE_MS / 2,
  longestPauseMs: 30 * MINUTE_MS,
  escalateAfterMs: 15 * MINUTE_MS,
  actionsMax: 20,
};

/** The pause after the try of that number, the first being 1. */
export function pauseMs(settings: ReconcileSettings, tries: number): number {
  return Math.min(settings.longestPauseMs, settings.firstPauseMs * 2 ** Math.min(tries - 1, 30));
}

function row(
  correction: FindingPolicy["correction"],
  patienceMs: number,
  incident: FindingPolicy["incident"],
  severity: IncidentSeverity,
): FindingPolicy {
  return { correction, patienceMs, incident, severity, holdsGpus: false };
}
