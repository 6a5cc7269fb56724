import { isShortName, shortName } from "@hostler/shared/ids.ts";
import type { Volumes } from "../../drivers/volumes/volumes.ts";
import { type HostSource, thing } from "../host-source.ts";

/** The volumes that hold what slices write. One program, however many there are. */
export function volumes(host: Pick<Volumes, "list">): HostSource {
  return {
    name: "volumes",
    kinds: ["volume"],
    list: async (signal) =>
      (await host.list(signal)).map(({ name, hostName, owner }) => {
        const isMisnamed = owner !== null && shortName(owner.allocationId, owner.generation) !== name;
        const fault = isMisnamed ? `It has the name of one slice and belongs to ${owner.allocationId}.` : null;
        const ofWhom = isShortName(name) ? name : null;
        return thing({ kind: "volume", name: hostName, owner: ofWhom, slice: isMisnamed ? null : owner, fault });
      }),
  };
}
