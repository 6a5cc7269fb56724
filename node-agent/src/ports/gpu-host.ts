import type { Gpu, GpuSample } from "@hostler/shared/node-protocol.ts";

/**
 * The GPUs of the host. Readings fail closed: a value that is missing, `N/A` where a number is needed or `ERR!` makes the
 * GPU unhealthy. Later adapters bind to VFIO and carve MIG behind the same port.
 */
export interface GpuHost {
  /** True when the GPUs are made up: shown in every answer and screen. */
  readonly simulated: boolean;
  /** Why GPUs of this host cannot be handed to a slice; null when they can. Asked in preflight, before anything is touched. */
  readonly unassignable: string | null;
  /** Empty where there is no GPU; rejects only when GPUs should be there and cannot be read. */
  list(signal: AbortSignal): Promise<readonly Gpu[]>;
  sample(signal: AbortSignal): Promise<readonly GpuSample[]>;
  /** Who holds the GPU on this host; null when free. */
  ownerOf(uuid: string): Promise<string | null>;
  /** Takes the GPU out of the host's hands for the owner (a slice's short name). Refuses one that another holds with `gpu_unavailable`. */
  bind(uuid: string, owner: string, signal: AbortSignal): Promise<void>;
  /** Gives it back; a GPU that the owner does not hold is left alone. */
  unbind(uuid: string, owner: string, signal: AbortSignal): Promise<void>;
  /** Puts the GPU into a state that nobody else left. Resolves with the kind of reset. */
  reset(uuid: string, signal: AbortSignal): Promise<string>;
}
