import { isShortName } from "@hostler/shared/ids.ts";
import type { StateFiles } from "../../ports/state-files.ts";
import { type HostSource, thing } from "../host-source.ts";

const FOLDER = "mock";

/** What the mock driver made, a folder a slice. */
export function mockObjects(files: Pick<StateFiles, "list">): HostSource {
  return {
    name: "mock objects",
    kinds: ["mock object"],
    list: async () =>
      (await files.list(FOLDER))
        .filter(isShortName)
        .map((name) => thing({ kind: "mock object", name: `${FOLDER}/${name}`, owner: name })),
  };
}
