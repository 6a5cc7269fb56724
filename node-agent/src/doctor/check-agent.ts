import { makeDiskFiles } from "../journal/disk-files.ts";
import { readStatusFile } from "../loops/status-file.ts";
import { ok, skipped, warning, type Outcome } from "./finding.ts";
import type { Scene } from "./scene.ts";

/** Whether an agent works on this state now. */
export function checkAgent(scene: Scene): readonly Outcome[] {
  if (scene.agent !== null) return [ok(`runs (pid ${scene.agent.pid}) and holds the state folder`)];
  if (scene.identity.state !== "present") return [skipped("without an identity none can run")];
  return [
    warning({
      text: "no agent runs on this state folder",
      matters: "the node is offline; its slices go on",
      remedy: "systemctl start hostler-agent, or hostler-agent run",
    }),
  ];
}

/** What the loops of the running agent last said of themselves. */
export async function checkLoops(scene: Scene): Promise<readonly Outcome[]> {
  if (scene.agent === null) return [skipped("no agent runs")];
  let statuses;
  try {
    statuses = await readStatusFile(makeDiskFiles(scene.stateDir));
  } catch {
    return [
      warning({
        text: "status.json in the state folder cannot be read",
        matters: "nobody sees how the loops do",
        remedy: "The agent writes it anew when a status changes; if this stays, look at the disk: dmesg | tail",
      }),
    ];
  }
  if (statuses.length === 0) return [skipped("the agent has not said anything yet")];
  return statuses.map(({ name, text, since }) => {
    const line = `${name}: ${text} (since ${since})`;
    if (!TROUBLE.test(text)) return ok(line);
    const matters = "the loop does not do its work now";
    return warning({ text: line, matters, remedy: "Mend what is a problem above; the loop tries again by itself." });
  });
}

/** How the loops in `loops/` begin a status of failure. */
const TROUBLE = /^(?:crashed|control plane away|not sent|not renewed|\d+ samples wait)\b/;
