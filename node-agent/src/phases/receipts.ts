import { HEALTHY, NEVER_BOUND, type SlotReceipt } from "@hostler/shared/receipts.ts";
import { ROOT_WAS_GIVEN } from "@hostler/shared/tasks.ts";
import type { JournalState, PhaseRecord } from "../journal/model.ts";
import type { Facts } from "../ports/slice-driver.ts";

/** What was found and done after the slice; null where nothing was. */
export interface ReturnRows {
  readonly reset: string | null;
  readonly healthAfter: string | null;
  readonly scrub: string | null;
  /** Why it could not be taken back; null when it was. */
  readonly failure?: string | null;
}

/** Pure: one GPU's receipt, from what the journal says of the way up and from the rows of the way down. */
export function receiptOf(
  gpuUuid: string,
  provision: JournalState["provision"],
  { failure = null, ...rows }: ReturnRows,
): SlotReceipt {
  if (hadRoot(provision)) failure = ROOT_WAS_GIVEN;
  else if (!wasBound(provision)) return untouchedReceipt(gpuUuid);
  const healthBefore = healthyBefore(provision["health"], gpuUuid) ? HEALTHY : null;
  const reason = failure ?? reasonOf(rows);
  return { gpuUuid, clean: reason === null, reason, healthBefore, ...rows };
}

/** Whether the tenant may have been root on the host itself: also when the making of the account broke off. */
export function hadRoot(provision: JournalState["provision"]): boolean {
  const record = provision["start"];
  if (record === undefined || record.status === "not_needed") return false;
  return provision["preflight"]?.facts["access"] === "root";
}

/** Whether the slice may have had its GPUs: also when the handing over broke off. */
export function wasBound(provision: JournalState["provision"]): boolean {
  const record = provision["bind"];
  return record !== undefined && record.status !== "not_needed";
}

/** How the GPUs were when they were handed over, by slot; null when nobody wrote it down. */
export function snapshotsOf(provision: JournalState["provision"]): Facts | null {
  const snapshots = provision["health"]?.facts["snapshots"];
  return typeof snapshots === "object" && snapshots !== null ? Object.fromEntries(Object.entries(snapshots)) : null;
}

function untouchedReceipt(gpuUuid: string): SlotReceipt {
  const row = NEVER_BOUND;
  return { gpuUuid, clean: true, reason: null, reset: row, healthBefore: row, healthAfter: row, scrub: row };
}

function reasonOf({ reset, healthAfter, scrub }: Omit<ReturnRows, "failure">): string | null {
  if (healthAfter === null) return "Its health was not read after the slice.";
  if (healthAfter !== HEALTHY) return healthAfter;
  if (reset === null) return "It was not reset after the slice.";
  return scrub === null ? "Nothing proves that its memory is clean." : null;
}

function healthyBefore(record: PhaseRecord | undefined, gpuUuid: string): boolean {
  const healthy = record?.facts["healthyGpuUuids"];
  return Array.isArray(healthy) && healthy.includes(gpuUuid);
}
