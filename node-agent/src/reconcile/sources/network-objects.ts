import { listNetworkObjects } from "../../drivers/network/list-objects.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { claimOf, type HostSource, misnamed, thing } from "../host-source.ts";

/** The interfaces and tables of rules that carry a slice's name. Two programs, however many there are. */
export function networkObjects(commands: HostCommands): HostSource {
  return {
    name: "network",
    kinds: ["interface", "rules"],
    list: async (signal) =>
      (await listNetworkObjects(commands, signal)).map(({ kind, name, sliceName, owner, foreignOwner }) => {
        const claim = claimOf(sliceName, owner);
        const fault = foreignOwner === null ? claim.fault : misnamed(foreignOwner);
        return thing({ kind: kind === "table" ? "rules" : kind, name, owner: sliceName, slice: claim.slice, fault });
      }),
  };
}
