import type { TerminalSpec } from "@hostler/shared/tasks.ts";
import type { Terminals } from "../terminals/open-terminal.ts";
import type { Conclusion, GrantedTask } from "./task.ts";

/** Attaches a terminal; the session goes on after the task. It touches nothing that would have to be undone. */
export async function openTerminalTask(
  terminals: Terminals,
  task: GrantedTask,
  spec: TerminalSpec,
): Promise<Conclusion> {
  const facts = await terminals.open(spec, AbortSignal.any([task.stop, task.cancel]));
  return { closes: null, outcome: { outcome: "succeeded", facts, failure: null } };
}
