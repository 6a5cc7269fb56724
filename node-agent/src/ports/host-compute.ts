import type { ComputeShare } from "../journal/host-ledger.ts";

/** Memory and CPUs of the host, given to slices near their GPUs. The host's ledger says who holds what; nothing else does. */
export interface HostCompute {
  /** Rejects with `driver_unavailable` and a sentence when this host cannot do what its operator asked for. Changes nothing. */
  check(wish: ComputeWish): Promise<void>;
  /**
   * Takes the slice's share: the same one again when the ledger shows that it has one. Null where nothing is set aside: then
   * memory and CPUs are the kernel's to give. Rejects with `capacity_unavailable` when the host has too little left.
   */
  take(owner: string, wish: ComputeWish, signal: AbortSignal): Promise<ComputeShare | null>;
  /** Gives the share back, so that the host holds exactly what the ledger sums up to. No share is success. */
  giveBack(owner: string, signal: AbortSignal): Promise<void>;
}

export interface ComputeWish {
  readonly vcpus: number;
  readonly memoryMib: number;
  /** PCI addresses of the slice's GPUs. One that the host does not show, or of no NUMA node, asks for no place. */
  readonly gpuAddresses: readonly string[];
}
