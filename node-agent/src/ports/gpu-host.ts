import type { Gpu, GpuSample } from "@hostler/shared/node-protocol.ts";
import type { FailureClass } from "@hostler/shared/states.ts";
import type { Facts } from "./slice-driver.ts";

/** How a machine gets at its GPUs: as PCI devices of its own, or through the driver of the host and its device nodes. */
export type GpuAccess = "vfio" | "device_nodes";

/** What a machine must be given for a slot. JSON, kept in the journal. */
export interface GpuGrant {
  /** PCI functions that VFIO has, the GPU first; empty without VFIO. */
  readonly pciAddresses: readonly string[];
  /** Paths of the host, the same inside; empty with VFIO. */
  readonly deviceNodes: readonly string[];
  /** Files of the host's driver that programs inside need; read-only. */
  readonly files: readonly { readonly source: string; readonly target: string }[];
}

export interface GpuFinding {
  /** Null when it is about the host. */
  readonly gpuUuid: string | null;
  readonly failureClass: Extract<FailureClass, "device" | "host" | "transient">;
  /** For the operator: what is wrong and what to do. */
  readonly sentence: string;
}

export interface Examination {
  /** Why they may not be handed over; empty when all are sound. */
  readonly findings: readonly GpuFinding[];
  /** What to compare with later, by slot. */
  readonly snapshots: Facts;
  /** What was compared with an earlier examination, and what nobody could look at: evidence, no verdict. */
  readonly evidence: Facts;
}

/**
 * The GPUs of the host. What is handed out is a slot (`@hostler/shared/gpu-slots.ts`): a whole GPU, or a MIG instance. Readings
 * fail closed: a value that is missing, `N/A` where a number is needed or `ERR!` makes the GPU unhealthy. Everything may run any
 * number of times, also after a crash half-way.
 */
export interface GpuHost {
  /** True when the GPUs are made up: shown in every answer and screen. */
  readonly simulated: boolean;
  /** Whether machines are given partitions of an NVSwitch board. */
  readonly hasFabric: boolean;
  /** Also those that a slice has and their own driver does not see. Empty where there is none; rejects only when they cannot be read. */
  list(signal: AbortSignal): Promise<readonly Gpu[]>;
  sample(signal: AbortSignal): Promise<readonly GpuSample[]>;
  /** Rejects with why these cannot be given so on this host. Changes nothing. */
  requireAssignable(slotIds: readonly string[], access: GpuAccess, signal: AbortSignal): Promise<void>;
  /** Whether they may be handed over: driver, kernel log, PCI bus. `before`: the snapshots of an earlier look, or null. */
  examine(slotIds: readonly string[], before: Facts | null, signal: AbortSignal): Promise<Examination>;
  /** Ends what of the host's own keeps the GPUs open, and remembers how they were set. */
  quiesce(slotIds: readonly string[], access: GpuAccess, signal: AbortSignal): Promise<Facts>;
  /** Sets back what `quiesce` changed; a GPU that another slice has by now is left alone. */
  restore(slotIds: readonly string[], signal: AbortSignal): Promise<void>;
  /** Makes the MIG instances among the slots, new ones; whole GPUs are left alone. */
  carve(slotIds: readonly string[], owner: string, signal: AbortSignal): Promise<Facts>;
  /** Destroys those that `carve` made for the owner. */
  uncarve(slotIds: readonly string[], owner: string, signal: AbortSignal): Promise<void>;
  /** Who holds the slot on this host (a slice's short name); null when free. */
  ownerOf(slotId: string): Promise<string | null>;
  /** Takes the slot out of the host's hands for the owner. Refuses one that another holds with `gpu_unavailable`. */
  bind(
    slotId: string,
    holder: { readonly owner: string; readonly access: GpuAccess },
    signal: AbortSignal,
  ): Promise<GpuGrant>;
  /** Gives it back; a slot that the owner does not hold is left alone. */
  unbind(slotId: string, owner: string, signal: AbortSignal): Promise<void>;
  /** Clears what its user left: a whole GPU is reset, a MIG instance is destroyed. Resolves with the kind, for the receipt. */
  reset(slotId: string, signal: AbortSignal): Promise<string>;
  /** What proves that the slot's memory is clean; `unproven` where nothing does. */
  proveClean(slotId: string, signal: AbortSignal): Promise<string>;
  /** Connects the owner's GPUs, and no others, on the NVSwitch board. */
  joinFabric(slotIds: readonly string[], owner: string, signal: AbortSignal): Promise<Facts>;
  leaveFabric(owner: string, signal: AbortSignal): Promise<void>;
}
