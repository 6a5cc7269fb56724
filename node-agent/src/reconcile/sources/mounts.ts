import { join } from "node:path";
import { isShortName } from "@hostler/shared/ids.ts";
import { readMounts } from "../../host/mountinfo.ts";
import { type HostSource, thing } from "../host-source.ts";

/** What is mounted in the run folders of slices: a disk that is mounted cannot be erased. `runDirs`: one a driver. */
export function mounts(runDirs: readonly string[]): HostSource {
  return {
    name: "mounts",
    kinds: ["mount"],
    list: async () => {
      return (await readMounts()).flatMap(({ place }) => {
        const name = runDirs.map((runDir) => sliceBelow(runDir, place)).find((found) => found !== null) ?? null;
        return name === null ? [] : [thing({ kind: "mount", name: place, owner: name })];
      });
    },
  };
}

function sliceBelow(runDir: string, point: string): string | null {
  const prefix = join(runDir, "/");
  const name = point.startsWith(prefix) ? (point.slice(prefix.length).split("/")[0] ?? "") : "";
  return isShortName(name) ? name : null;
}
