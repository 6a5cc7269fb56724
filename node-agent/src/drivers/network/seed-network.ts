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
  const [{ guest, host, prefixLength }, { egress }] = await Promise.all([
    deps.addresses.allocate(slice, signal),
    readHostRoutes(deps.commands, signal),
  ]);
  const address = `${guest}/${prefixLength}`;
  if (egress.kind === "none") return { mac: macOf(slice), address, gateway: null, resolvers: [] };
  return { mac: macOf(slice), address, gateway: host, resolvers: egress.resolvers };
}
