import { ALLOCATION_TRANSITIONS, isFinal } from "@hostler/shared/states.ts";
import type { Queryable, Tx } from "../db/sql.ts";
import { readPlacedSlices, type PlacedSlice } from "./slice-store.ts";
import { lockAllocation } from "./store.ts";

export type { PlacedSlice };

/** What the node should have, and what became of the other allocations that it names. */
export async function placedSlicesOf(
  db: Queryable,
  filter: { readonly nodeId: string; readonly allocationIds: readonly string[] },
): Promise<PlacedSlice[]> {
  return await readPlacedSlices(db, filter);
}

/** Whether the slice is somebody's on that node. The allocation, where there is one, stays locked until the commit. */
export async function isSliceWanted(
  tx: Tx,
  slice: { readonly nodeId: string; readonly allocationId: string; readonly generation: number },
): Promise<boolean> {
  const allocation = await lockAllocation(tx, slice.allocationId);
  if (allocation === undefined || isFinal(ALLOCATION_TRANSITIONS, allocation.state)) return false;
  return allocation.nodeId === slice.nodeId && slice.generation === allocation.generation;
}
