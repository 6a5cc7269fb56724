import type { HostCommands } from "../../ports/host-commands.ts";
import type { SliceReference } from "../../ports/slice-driver.ts";
import type { SeedNetwork } from "../slices/seed-files.ts";
import type { AddressPool } from "./addresses.ts";
import { readHostRoutes } from "./host-routes.ts";
import { macOf } from "./host-links.ts";

/** What a slice on a cable of the host's is told of its network: its address, and a way out only where the host has one. */
export async function seedNetworkOf(
  deps: { readonly addresses: AddressPool; readonly commands: HostCommands },
  slice: SliceReference,
  signal: AbortSignal,
): Promise<SeedNetwork> {
  const [{ guest, host, prefixLength, ipv6 }, { egress }] = await Promise.all([
    deps.addresses.allocate(slice, signal),
    readHostRoutes(deps.commands, signal),
  ]);
  const address = `${guest}/${prefixLength}`;
  const way =
    egress.kind === "none" ? { gateway: null, resolvers: [] } : { gateway: host, resolvers: egress.resolvers };
  return {
    ...{ mac: macOf(slice), address, ...way },
    address6: ipv6 === null ? null : `${ipv6.guest}/${ipv6.prefixLength}`,
    gateway6: ipv6 === null ? null : ipv6.host,
  };
}
