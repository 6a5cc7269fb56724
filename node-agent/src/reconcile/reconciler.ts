import type { Clock } from "@hostler/shared/clock.ts";
import type { StateFiles } from "../ports/state-files.ts";
import { lookAtHost, type LookDeps } from "./look-at-host.ts";
import type { Comparison } from "./compare.ts";
import { isDifference, type Row } from "./model.ts";
import { writeReport, type ReconcileReport } from "./report-file.ts";
import { undoFinished, type UndoDeps } from "./undo-finished.ts";

/** The host's own opinion of what is on it: looks, removes what is provably finished, and says what it found. */
export interface Reconciler {
  /** One round. Rejects when nothing could be judged; then nothing was removed. Not while another round runs. */
  reconcile(signal: AbortSignal): Promise<ReconcileReport>;
  /** Why these GPUs must not be handed out, as of the last round. */
  readonly gpuFaults: ReadonlyMap<string, string>;
}

export interface ReconcilerDeps extends LookDeps, UndoDeps {
  readonly files: StateFiles;
  readonly clock: Clock;
  readonly pid: number;
  readonly hasNetwork: boolean;
}

const ROWS_MAX = 20_000;
const UNDONE_MAX = 100;

export function makeReconciler(deps: ReconcilerDeps): Reconciler {
  let isFirst = true;
  let gpuFaults: ReadonlyMap<string, string> = new Map();
  let undone: ReconcileReport["undone"] = [];
  return {
    get gpuFaults() {
      return gpuFaults;
    },
    reconcile: async (signal) => {
      const startedMs = deps.clock.monotonicMs();
      const found = await lookAtHost(deps, { isFirst, signal });
      const { rows, gone, faults } = await undoAndLookAgain(deps, found, { isFirst, signal });
      const now = deps.clock.now().toISOString();
      undone = [...undone, ...gone.map((row) => ({ ...row, at: now }))].slice(-UNDONE_MAX);
      gpuFaults = faults;
      isFirst = false;
      const report: ReconcileReport = {
        lookedAt: now,
        agentPid: deps.pid,
        tookMs: Math.round(deps.clock.monotonicMs() - startedMs),
        rows: inOrderOfWeight(rows).slice(0, ROWS_MAX),
        isWhole: rows.length <= ROWS_MAX,
        undone,
        hasNetwork: deps.hasNetwork,
      };
      await writeReport(deps.files, report);
      return report;
    },
  };
}

/** Removing is believed when a second look does not show the things any more, and not before. */
async function undoAndLookAgain(
  deps: ReconcilerDeps,
  found: Comparison,
  options: { readonly isFirst: boolean; readonly signal: AbortSignal },
): Promise<{ readonly rows: readonly Row[]; readonly gone: readonly Row[]; readonly faults: Comparison["gpuFaults"] }> {
  if (found.leftoversOf.length === 0) return { rows: found.rows, gone: [], faults: found.gpuFaults };
  const refusals = new Map<string, string>();
  for (const slice of found.leftoversOf) {
    const refusal = await undoFinished(deps, slice, options.signal);
    if (refusal !== null) refusals.set(`${slice.allocationId}.${slice.generation}`, refusal);
  }
  const again = await lookAtHost(deps, options);
  const left = new Set(again.rows.map(identityOf));
  const gone = found.rows.filter((row) => row.verdict === "leftover" && !left.has(identityOf(row)));
  const rows = again.rows.map((row) => (row.verdict === "leftover" ? stillThere(row, refusals) : row));
  return {
    rows,
    gone: gone.map((row) => ({ ...row, verdict: "undone" as const, remedy: "" })),
    faults: again.gpuFaults,
  };
}

function stillThere(row: Row, refusals: ReadonlyMap<string, string>): Row {
  const why = refusals.get(row.owner ?? "") ?? "It was removed with the rest of its slice, and is still there.";
  const isStray = row.kind === "machine" && !refusals.has(row.owner ?? "");
  const remedy = isStray
    ? `No supervisor knows it. Once it is certain what it is: kill ${row.name.replace(/^process /, "")}`
    : "It is tried again each minute; mend what the reason names.";
  return { ...row, why: `${row.why} ${why}`, remedy };
}

function identityOf({ kind, name }: Row): string {
  return `${kind} ${name}`;
}

/** Differences first, otherwise by owner, so that what belongs together stands together. */
function inOrderOfWeight(rows: readonly Row[]): Row[] {
  const weight = (row: Row): string => `${isDifference(row) ? 0 : 1} ${row.owner ?? ""}`;
  return rows.toSorted((a, b) => (weight(a) < weight(b) ? -1 : weight(a) > weight(b) ? 1 : 0));
}
