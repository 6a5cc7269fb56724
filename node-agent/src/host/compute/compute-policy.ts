/**
 * Where hugepages come from. `reserved`: from what the operator set aside, best at boot, where pages of 1 GiB can still be had;
 * the agent never changes how many there are. `on-demand`: the pools are the agent's own, as large as slices need them.
 */
export type HugepagePolicy = "reserved" | "on-demand";

/** What the operator lets slices have of this host; nothing is set aside unless asked for. */
export interface ComputePolicy {
  readonly hugepages: HugepagePolicy | "off";
  readonly pinCpus: boolean;
  /** CPUs that stay the host's, with the other threads of their cores. Null leaves it the core of its first CPU. */
  readonly reservedCpus: readonly number[] | null;
}

export const NO_COMPUTE_POLICY: ComputePolicy = { hugepages: "off", pinCpus: false, reservedCpus: null };
