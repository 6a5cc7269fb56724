import type { SlicesReport } from "@hostler/shared/node-protocol.ts";
import { placedSlicesOf } from "../allocations/placed-slices.ts";
import { beginRepair } from "../allocations/repair-allocation.ts";
import type { Tx } from "../db/sql.ts";
import { inTransaction } from "../db/transaction.ts";
import { nodeTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { syncIncidents, type SeenIncident } from "../incidents/sync-incidents.ts";
import { keepHeldSlots } from "../nodes/held-slots.ts";
import { sliceTasksOf } from "../tasks/slice-tasks.ts";
import { diffSlices, type FindingKind } from "./diff-slices.ts";
import { beginRemoval } from "./remove-slice.ts";
import { pauseMs, RECONCILE_SETTINGS, type ReconcileSettings } from "./policy.ts";
import {
  hasFindings,
  noteTold,
  noteTry,
  readFindings,
  resolveFindings,
  saveFindings,
  saveReport,
  type FindingRow,
} from "./store.ts";

export type ReconcileDeps = Pick<Deps, "sql" | "clock" | "wake" | "log">;

export interface Reconciled {
  readonly findings: readonly {
    readonly kind: FindingKind;
    readonly allocationId: string;
    readonly generation: number;
  }[];
  readonly undecided: readonly string[];
  readonly repairs: number;
  readonly removals: number;
}

const ACTOR = "system:reconciliation";
/** Slices that an incident names; the rest it counts. */
const NAMED_MAX = 5;

/**
 * Takes a host's list of slices: writes it down, compares it, and brings about what the policy says. What was found is one
 * transaction; each order is another one, which looks again under the allocation's lock. Lists of one node may come in any order
 * and twice.
 */
export async function reconcileNode(
  deps: ReconcileDeps,
  request: { readonly nodeId: string; readonly report: SlicesReport; readonly settings?: ReconcileSettings },
): Promise<Reconciled> {
  const { nodeId, report, settings = RECONCILE_SETTINGS } = request;
  const { findings, undecided } = await inTransaction(
    deps.sql,
    async (tx) => await judge(tx, deps, { nodeId, report, settings }),
  );
  const open = new Set(undecided);
  const due = findings.filter(
    (finding) =>
      finding.isDue &&
      !finding.isGivenUp &&
      settings.policy[finding.kind].correction !== null &&
      !open.has(finding.allocationId),
  );
  const ordered = { repair: 0, remove: 0 };
  for (const finding of due.slice(0, settings.actionsMax)) {
    const { correction } = settings.policy[finding.kind];
    if (correction !== null && (await order(deps, { nodeId, finding, settings, correction }))) ordered[correction] += 1;
  }
  if (ordered.repair + ordered.remove > 0) deps.wake.wake(nodeTopic(nodeId));
  return { findings, undecided, repairs: ordered.repair, removals: ordered.remove };
}

interface Judging {
  readonly nodeId: string;
  readonly report: SlicesReport;
  readonly settings: ReconcileSettings;
}

async function judge(
  tx: Tx,
  deps: ReconcileDeps,
  { nodeId, report, settings }: Judging,
): Promise<{ readonly findings: readonly FindingRow[]; readonly undecided: readonly string[] }> {
  await saveReport(tx, nodeId, report);
  const named = report.slices.map((entry) => entry.allocationId);
  // In this order: what a task settled between the two reads shows as a task that the list does not know.
  const wanted = await placedSlicesOf(tx, { nodeId, allocationIds: named });
  const allocationIds = [...new Set([...named, ...wanted.map((slice) => slice.allocationId)])];
  const tasks = await sliceTasksOf(tx, { nodeId, allocationIds });
  const { findings: shown, undecided } = diffSlices({ wanted, list: report, tasks });
  // Nothing was the matter and nothing is: the list of nearly every host, nearly always.
  if (!(await hasFindings(tx, nodeId)) && shown.length === 0) return { findings: [], undecided };
  await saveFindings(
    tx,
    nodeId,
    shown.map((finding) => {
      const { patienceMs, correction } = settings.policy[finding.kind];
      return { ...finding, patienceMs, keepsTries: correction !== null };
    }),
  );
  await resolveFindings(tx, nodeId, { findings: shown, undecided });
  const kinds = Object.keys(settings.policy) as FindingKind[];
  const findings = await readFindings(tx, nodeId, settings.triesMax);
  await noteTold(
    tx,
    nodeId,
    kinds.filter((kind) => settings.policy[kind].correction === null),
  );
  const open = new Set(undecided);
  await syncIncidents(tx, deps, {
    source: `slices:${nodeId}`,
    seen: incidentsOf(
      settings,
      nodeId,
      findings.filter((finding) => {
        // The one incident of all that is unknown cannot be left as it is for one of them alone.
        const isJudged = finding.kind === "unknown" || !open.has(finding.allocationId);
        return isJudged && isIncident(settings, finding);
      }),
    ),
    undecided,
    escalateAfterMs: settings.escalateAfterMs,
  });
  const holders = findings.filter((finding) => settings.policy[finding.kind].holdsGpus);
  await keepHeldSlots(
    tx,
    nodeId,
    holders.map(({ allocationId, generation, gpuUuids }) => ({
      holder: `${allocationId} generation ${generation} still holds it on the host`,
      gpuUuids,
    })),
  );
  return { findings, undecided };
}

/** Told things were tried once: they have been told. */
function isIncident(settings: ReconcileSettings, finding: FindingRow): boolean {
  const { correction, incident } = settings.policy[finding.kind];
  if (correction === null) return finding.isDue || finding.tries > 0;
  return incident === "at_once" || finding.isGivenUp;
}

/** One for each slice; for those that nobody here knows one for the host, or a host that invents them could invent incidents. */
function incidentsOf(settings: ReconcileSettings, nodeId: string, findings: readonly FindingRow[]): SeenIncident[] {
  const unknown = findings.filter((finding) => finding.kind === "unknown");
  const known = findings.filter((finding) => finding.kind !== "unknown");
  const { severity } = settings.policy.unknown;
  const named = unknown
    .slice(0, NAMED_MAX)
    .map(({ allocationId, generation }) => `${allocationId} generation ${generation}`);
  const more = unknown.length > named.length ? ` and ${unknown.length - named.length} more` : "";
  const detail = `Slices that nobody here knows: ${named.join(", ")}${more}. See: hostler nodes slices ${nodeId}`;
  const incident = { key: `slice/${nodeId}/unknown`, kind: "slice.unknown", severity, aboutId: nodeId, nodeId, detail };
  return [
    ...known.map((finding) => incidentOf(settings, nodeId, finding)),
    ...(unknown.length === 0 ? [] : [incident]),
  ];
}

function incidentOf(settings: ReconcileSettings, nodeId: string, finding: FindingRow): SeenIncident {
  const { kind, allocationId, generation, detail, isGivenUp } = finding;
  const { severity, correction } = settings.policy[kind];
  const isHopeless = correction !== null && isGivenUp;
  return {
    key: `slice/${nodeId}/${allocationId}.${generation}/${kind}`,
    kind: `slice.${kind}`,
    severity: isHopeless ? "critical" : severity,
    aboutId: allocationId,
    nodeId,
    detail: isHopeless ? `${detail} It was tried ${settings.triesMax} times to ${correction} it.` : detail,
  };
}

/** Orders one correction; false when it is not called for any more, which the next list will show. */
async function order(
  deps: ReconcileDeps,
  what: {
    readonly nodeId: string;
    readonly finding: FindingRow;
    readonly settings: ReconcileSettings;
    readonly correction: "repair" | "remove";
  },
): Promise<boolean> {
  const { nodeId, finding, settings, correction } = what;
  const { allocationId, generation, kind, driver, detail } = finding;
  const by = { actor: ACTOR, requestId: null };
  const slice = { nodeId, allocationId, generation };
  const operationId = await inTransaction(deps.sql, async (tx) => {
    const begun =
      correction === "repair"
        ? await beginRepair(tx, deps, { ...slice, newDisk: false, ...by })
        : await beginRemoval(tx, deps, { ...slice, driver, reason: `${kind}: ${detail}`, ...by });
    const tries = finding.tries + 1;
    const isLast = begun !== null && tries >= settings.triesMax;
    const next = { isTry: begun !== null, pauseMs: isLast ? null : pauseMs(settings, tries) };
    await noteTry(tx, { nodeId, allocationId, generation, kind }, next);
    return begun;
  });
  if (operationId === null) return false;
  deps.log.warn({ ...slice, kind, detail, correction, operationId, try: finding.tries + 1 }, "slice is put right");
  return true;
}
