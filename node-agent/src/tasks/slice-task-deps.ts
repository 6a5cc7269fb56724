import type { Clock } from "@hostler/shared/clock.ts";
import { AppError } from "@hostler/shared/errors.ts";
import type { HostLedger } from "../journal/host-ledger.ts";
import type { JournalStore } from "../journal/journal-file.ts";
import { isLowerFence, type JournalState } from "../journal/model.ts";
import type { Log } from "../log.ts";
import type { GpuHost } from "../ports/gpu-host.ts";
import type { HostCompute } from "../ports/host-compute.ts";
import type { SliceDriver } from "../ports/slice-driver.ts";

export interface SliceTaskDeps {
  readonly journals: JournalStore;
  readonly ledger: HostLedger;
  readonly drivers: ReadonlyMap<string, SliceDriver>;
  readonly gpus: GpuHost;
  /** Absent where no memory and no CPUs are ever set aside, as in simulations. */
  readonly compute?: HostCompute;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly availableMemoryMib: () => Promise<number>;
}

/** A later grant has acted on the slice: whoever holds this one must not. */
export function assertNotLower(state: JournalState, fence: string): void {
  if (isLowerFence(fence, state.fence))
    throw new AppError("lease_stale", {
      detail: `Grant ${state.fence} has acted on this slice; this task carries ${fence}.`,
    });
}
