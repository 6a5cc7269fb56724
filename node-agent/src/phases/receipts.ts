import { HEALTHY, NEVER_BOUND, type SlotReceipt } from "@hostler/shared/receipts.ts";
import type { Gpu } from "@hostler/shared/node-protocol.ts";
import type { JournalState, PhaseRecord } from "../journal/model.ts";
import type { GpuHost } from "../ports/gpu-host.ts";

/** What was found and done after the slice; null where nothing was. */
export interface ReturnRows {
  readonly reset: string | null;
  readonly healthAfter: string | null;
  readonly scrub: string | null;
}

/** Pure: one GPU's receipt, from what the journal says of the way up and from the rows of the way down. */
export function receiptOf(gpuUuid: string, provision: JournalState["provision"], rows: ReturnRows): SlotReceipt {
  if (!wasBegun(provision["bind"])) return untouchedReceipt(gpuUuid);
  const healthBefore = healthyBefore(provision["health"], gpuUuid) ? HEALTHY : null;
  const reason = reasonOf(rows);
  return { gpuUuid, clean: reason === null, reason, healthBefore, ...rows };
}

/** What proves that the memory of the host's GPUs is clean after a slice; null when nothing does. */
export function scrubOf(gpus: Pick<GpuHost, "simulated">): string | null {
  return gpus.simulated ? "simulated" : null;
}

export function healthOf(gpu: Gpu | undefined): string {
  if (gpu === undefined) return "The GPU is gone.";
  return gpu.healthy ? HEALTHY : (gpu.fault ?? "unhealthy");
}

function untouchedReceipt(gpuUuid: string): SlotReceipt {
  const row = NEVER_BOUND;
  return { gpuUuid, clean: true, reason: null, reset: row, healthBefore: row, healthAfter: row, scrub: row };
}

function reasonOf({ reset, healthAfter, scrub }: ReturnRows): string | null {
  if (healthAfter === null) return "Its health was not read after the slice.";
  if (healthAfter !== HEALTHY) return healthAfter;
  if (reset === null) return "It was not reset after the slice.";
  return scrub === null ? "Nothing proves that its memory is clean." : null;
}

function wasBegun(record: PhaseRecord | undefined): boolean {
  return record !== undefined && record.status !== "not_needed";
}

function healthyBefore(record: PhaseRecord | undefined, gpuUuid: string): boolean {
  const healthy = record?.facts["healthyGpuUuids"];
  return Array.isArray(healthy) && healthy.includes(gpuUuid);
}
