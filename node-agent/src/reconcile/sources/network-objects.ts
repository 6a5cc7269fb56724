import { shortName } from "@hostler/shared/ids.ts";
import { listNetworkObjects } from "../../drivers/network/list-objects.ts";
import type { HostCommands } from "../../ports/host-commands.ts";
import { type HostSource, thing } from "../host-source.ts";

/** The interfaces and tables of rules that carry a slice's name. Two programs, however many there are. */
export function networkObjects(commands: HostCommands): HostSource {
  return {
    name: "network",
    kinds: ["interface", "rules"],
    list: async (signal) =>
      (await listNetworkObjects(commands, signal)).map(({ kind, name, sliceName, owner, foreignOwner }) => {
        const isMisnamed = owner !== null && shortName(owner.allocationId, owner.generation) !== sliceName;
        const other = isMisnamed ? owner.allocationId : foreignOwner;
        const fault = other === null ? null : `It has the name of one slice and belongs to ${other.slice(0, 200)}.`;
        const slice = isMisnamed ? null : owner;
        return thing({ kind: kind === "table" ? "rules" : kind, name, owner: sliceName, slice, fault });
      }),
  };
}
