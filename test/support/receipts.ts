import { HEALTHY, type DiskReceipt, type SlotReceipt } from "@hostler/shared/receipts.ts";

/** What a host that did everything right tells of the GPUs that a slice gave back. */
export function cleanFacts(gpuUuids: readonly string[]): {
  readonly receipts: readonly SlotReceipt[];
  readonly disk: DiskReceipt;
} {
  const rows = { reset: "scripted", healthBefore: HEALTHY, healthAfter: HEALTHY, scrub: "scripted" };
  return {
    receipts: gpuUuids.map((gpuUuid) => ({ gpuUuid, clean: true, reason: null, ...rows })),
    disk: { method: "scripted", readBack: "absent" },
  };
}
