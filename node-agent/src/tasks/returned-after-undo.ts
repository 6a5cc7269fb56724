import { describeError } from "@hostler/shared/errors.ts";
import type { SliceSpec } from "@hostler/shared/tasks.ts";
import type { Journal } from "../journal/journal-file.ts";
import type { JournalState } from "../journal/model.ts";
import { healthRows } from "../phases/gpu-findings.ts";
import { hadRoot, receiptOf, snapshotsOf, wasBound } from "../phases/receipts.ts";
import type { Facts, SliceDriver } from "../ports/slice-driver.ts";
import type { SliceTaskDeps } from "./slice-task-deps.ts";

export interface BuiltSlice {
  readonly spec: SliceSpec;
  readonly driver: SliceDriver;
  readonly journal: Journal;
}

/** What may be handed out again after everything was undone. What cannot be read leaves its rows out, and the slots are kept back. */
export async function returnedAfterUndo(
  deps: Pick<SliceTaskDeps, "gpus" | "log">,
  { spec, driver, journal }: BuiltSlice,
  signal: AbortSignal,
): Promise<Facts> {
  try {
    const receipts = await receiptsOf(deps, { spec, provision: journal.state.provision }, signal);
    return {
      receipts,
      rootWasGiven: hadRoot(journal.state.provision),
      disk: { method: driver.diskErasure, readBack: await driver.disk.inspect(spec, signal) },
    };
  } catch (error) {
    deps.log.warn({ allocationId: spec.allocationId, error: describeError(error) }, "no receipts after undo");
    return {};
  }
}

async function receiptsOf(
  { gpus }: Pick<SliceTaskDeps, "gpus">,
  { spec, provision }: { readonly spec: SliceSpec; readonly provision: JournalState["provision"] },
  signal: AbortSignal,
): Promise<readonly unknown[]> {
  const nothingRead = { reset: null, healthAfter: null, scrub: null };
  // Of GPUs that were never bound nothing is asked: the driver may be what was wrong.
  if (!wasBound(provision)) return spec.gpuUuids.map((slotId) => receiptOf(slotId, provision, nothingRead));
  const { findings } = await gpus.examine(spec.gpuUuids, snapshotsOf(provision), signal);
  const health = healthRows(spec.gpuUuids, findings);
  const receipts = [];
  for (const slotId of spec.gpuUuids) {
    const healthAfter = health[slotId] ?? null;
    // The undo of `bind` reset it, or it would be among the leftovers.
    const rows = { reset: "undo of bind", healthAfter, scrub: await gpus.proveClean(slotId, signal) };
    receipts.push(receiptOf(slotId, provision, rows));
  }
  return receipts;
}
