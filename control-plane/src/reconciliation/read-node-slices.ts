import type { NodeSlice, NodeSlices } from "@hostler/shared/api/slices.ts";
import type { SliceEntry } from "@hostler/shared/node-protocol.ts";
import type { Queryable } from "../db/sql.ts";
import { RECONCILE_SETTINGS } from "./policy.ts";
import { readFindings, readReport, type FindingRow } from "./store.ts";

/** What a host told last of its slices, with what is the matter with each. */
export async function readNodeSlices(db: Queryable, nodeId: string): Promise<NodeSlices> {
  const report = await readReport(db, nodeId);
  const findings = await readFindings(db, nodeId, RECONCILE_SETTINGS.triesMax);
  const shown = report?.slices ?? [];
  const keys = new Set(shown.map(keyOf));
  const slices = [
    ...shown.map((entry) =>
      viewOf(
        entry,
        entry,
        findings.find((finding) => keyOf(finding) === keyOf(entry)),
      ),
    ),
    ...findings.filter((finding) => !keys.has(keyOf(finding))).map((finding) => viewOf(finding, null, finding)),
  ];
  const reportedAt = report?.reportedAt.toISOString() ?? null;
  return { nodeId, reportedAt, isWhole: report?.isWhole ?? true, slices };
}

function viewOf(
  slice: Pick<NodeSlice, "allocationId" | "generation" | "driver">,
  entry: SliceEntry | null,
  finding: FindingRow | undefined,
): NodeSlice {
  const { allocationId, generation, driver } = slice;
  return {
    allocationId,
    generation,
    driver,
    shown: entry === null ? null : shownOf(entry),
    finding:
      finding === undefined
        ? null
        : {
            kind: finding.kind,
            detail: finding.detail,
            firstSeenAt: finding.firstSeenAt.toISOString(),
            tries: finding.tries,
            isGivenUp: finding.isGivenUp,
          },
  };
}

function shownOf({ state, fence, gpuUuids, vcpus, memoryMib, diskGib }: SliceEntry): NonNullable<NodeSlice["shown"]> {
  return { state, fence, gpuUuids, vcpus, memoryMib, diskGib };
}

function keyOf(slice: { readonly allocationId: string; readonly generation: number }): string {
  return `${slice.allocationId}.${slice.generation}`;
}
