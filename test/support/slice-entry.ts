import type { Allocation } from "@hostler/shared/api/allocations.ts";
import type { SliceEntry } from "@hostler/shared/node-protocol.ts";

/** A slice as its host shows it when all is well with it. */
export function sliceEntryOf(allocation: Allocation, changes: Partial<SliceEntry> = {}): SliceEntry {
  return {
    allocationId: allocation.id,
    generation: 1,
    driver: "mock",
    state: "running",
    fence: "1",
    gpuUuids: allocation.gpus.map((gpu) => gpu.uuid),
    vcpus: allocation.vcpus,
    memoryMib: allocation.memoryMib,
    diskGib: allocation.diskGib,
    ...changes,
  };
}
