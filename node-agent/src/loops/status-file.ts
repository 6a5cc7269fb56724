import type { Clock } from "@hostler/shared/clock.ts";
import * as z from "zod";
import type { StateFiles } from "../ports/state-files.ts";
import type { Loop, LoopStatus } from "./supervise.ts";

const PATH = "status.json";
const LOOK_MS = 2000;
const statusesSchema = z.array(z.object({ name: z.string(), text: z.string(), since: z.string() }));

/** Leaves the one-line status of each loop where `hostler-agent status` finds it: the agent listens on nothing. */
export function statusFileLoop(deps: {
  readonly files: StateFiles;
  readonly statuses: () => readonly LoopStatus[];
  readonly clock: Clock;
}): Loop {
  return {
    name: "status file",
    run: async (setStatus, signal) => {
      setStatus("writing");
      for (let written = ""; ;) {
        const text = JSON.stringify(deps.statuses());
        if (text !== written) await deps.files.replace(PATH, text);
        written = text;
        await deps.clock.sleep(LOOK_MS, signal);
      }
    },
  };
}

/** What the loops of the last agent on this state said. */
export async function readStatusFile(files: StateFiles): Promise<readonly LoopStatus[]> {
  return statusesSchema.parse(JSON.parse((await files.read(PATH)) ?? "[]"));
}
