/** What of the host's GPUs is in slices' hands, or in nobody's, read from records and from the host. Changes nothing. */
export interface GpuSurvey {
  listBound(signal: AbortSignal): Promise<readonly HeldGpu[]>;
  listMig(signal: AbortSignal): Promise<readonly HeldInstance[]>;
}

export interface HeldGpu {
  /** Null for a GPU that VFIO has and no record names: its own driver cannot be asked who it is. */
  readonly uuid: string | null;
  /** The short name of the slice that has it; null when no record says. */
  readonly owner: string | null;
  /** Every PCI function that moved with it. */
  readonly addresses: readonly string[];
  /** Why it cannot be used, such as a write that hangs in the kernel; null when all is well. */
  readonly fault: string | null;
}

export interface HeldInstance {
  readonly gpuUuid: string;
  /** What an operator finds it by: its profile and where it starts. */
  readonly instance: string;
  readonly owner: string | null;
}
