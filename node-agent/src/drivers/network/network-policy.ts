import type { Ipv6Prefix } from "./ipv6.ts";

/** Ports of the host, both ends included. */
export interface PortRange {
  readonly first: number;
  readonly last: number;
}

/** What the operator of a host gives to slices. */
export interface NetworkPolicy {
  /** The host's ports that lead to ports of slices. */
  readonly portRange: PortRange;
  /** Where tenants reach them; null: the address that the host's own connections go out from. */
  readonly portAddress: string | null;
  /** Where the IPv6 addresses of slices are cut from; null: they have none. */
  readonly ipv6Prefix: Ipv6Prefix | null;
  /** The most that one slice gets in each direction, Mbit/s; null does not limit. */
  readonly bandwidthMbitPerSecond: number | null;
}

/** Below what the kernel gives to outgoing connections. */
export const DEFAULT_NETWORK_POLICY: NetworkPolicy = {
  portRange: { first: 30_000, last: 32_767 },
  portAddress: null,
  ipv6Prefix: null,
  bandwidthMbitPerSecond: null,
};
