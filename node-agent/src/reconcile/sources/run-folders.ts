import { join } from "node:path";
import { isShortName } from "@hostler/shared/ids.ts";
import { type HostSource, thing } from "../host-source.ts";
import { namesIn } from "./names-in.ts";

/** Where sockets are, and where disks of containers are mounted. `runDirs`: one a driver. */
export function runFolders(runDirs: readonly string[]): HostSource {
  return {
    name: "run folders",
    kinds: ["run folder"],
    list: async () => {
      const lists = runDirs.map(async (runDir) => {
        const names = (await namesIn(runDir)).filter(isShortName);
        return names.map((name) => thing({ kind: "run folder", name: join(runDir, name), owner: name }));
      });
      return (await Promise.all(lists)).flat();
    },
  };
}
