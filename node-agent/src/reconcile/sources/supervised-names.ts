import { isShortName } from "@hostler/shared/ids.ts";
import type { ProcessSupervisor } from "../../ports/process-supervisor.ts";
import { type HostSource, thing } from "../host-source.ts";

/** The units of slices under systemd, elsewhere the records of their processes; also of those that have ended. */
export function supervisedNames(supervisor: Pick<ProcessSupervisor, "names">): HostSource {
  return {
    name: "supervised processes",
    kinds: ["supervised name"],
    list: async () => {
      const names = (await supervisor.names()).filter(isShortName);
      return names.map((name) => thing({ kind: "supervised name", name, owner: name }));
    },
  };
}
