import type { Allocation } from "@hostler/shared/api/allocations.ts";
import type { Placement } from "./placement.ts";

/** A host that does not pick a provision task up for this long is given up on. */
export const PROVISION_EXPIRES_MS = 15 * 60_000;

/** What an allocation shows of the GPUs that it got. */
export function slotsOf(placement: Placement): Allocation["gpus"] {
  return placement.gpus.map((gpu) => ({ uuid: gpu.uuid, model: gpu.model, kind: gpu.kind }));
}
