import type { StateFiles } from "../ports/state-files.ts";

const PATH = "ended-cleanly";

/**
 * Whether the agent before this one was ended in order, with no task under way. Asked once, at the start: from then on this agent has
 * not ended in order. It tells the control plane that no task took its agent along.
 */
export async function takeCleanEnd(files: StateFiles): Promise<boolean> {
  const isClean = (await files.read(PATH)) !== null;
  if (isClean) await files.remove(PATH);
  return isClean;
}

/** The last thing that an agent writes, when all its tasks have stopped. */
export async function noteCleanEnd(files: StateFiles): Promise<void> {
  await files.replace(PATH, "\n");
}
