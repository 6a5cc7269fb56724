import { isShortName } from "@hostler/shared/ids.ts";
import type { Volumes } from "../../drivers/volumes/volumes.ts";
import { claimOf, type HostSource, thing } from "../host-source.ts";

/** The volumes that hold what slices write. One program, however many there are. */
export function volumes(host: Pick<Volumes, "list">): HostSource {
  return {
    name: "volumes",
    kinds: ["volume"],
    list: async (signal) =>
      (await host.list(signal)).map(({ name, hostName, owner }) =>
        thing({ kind: "volume", name: hostName, owner: isShortName(name) ? name : null, ...claimOf(name, owner) }),
      ),
  };
}
