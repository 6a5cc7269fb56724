import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { isShortName } from "@hostler/shared/ids.ts";
import { mountPoints } from "../../drivers/container/mounts.ts";
import { type HostSource, thing } from "../host-source.ts";

/** What is mounted in the run folders of slices: a disk that is mounted cannot be erased. `runDirs`: one a driver. */
export function mounts(runDirs: readonly string[]): HostSource {
  return {
    name: "mounts",
    kinds: ["mount"],
    list: async () => {
      const points = mountPoints(await readFile("/proc/self/mountinfo", "utf8"));
      return points.flatMap((point) => {
        const name = runDirs.map((runDir) => sliceBelow(runDir, point)).find((found) => found !== null) ?? null;
        return name === null ? [] : [thing({ kind: "mount", name: point, owner: name })];
      });
    },
  };
}

function sliceBelow(runDir: string, point: string): string | null {
  const prefix = join(runDir, "/");
  const name = point.startsWith(prefix) ? (point.slice(prefix.length).split("/")[0] ?? "") : "";
  return isShortName(name) ? name : null;
}
