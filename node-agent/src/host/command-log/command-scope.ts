import { AsyncLocalStorage } from "node:async_hooks";
import type { FinishedCommand } from "../../ports/command-log.ts";

/**
 * Whose programs those are that are started now. Phases call drivers, drivers call helpers, helpers run programs: none of them knows
 * of phases, and none has to hand this on. Work that outlives its phase (it hung, and was left behind) stays that phase's.
 */
const scopes = new AsyncLocalStorage<(command: FinishedCommand) => void>();

export async function inCommandScope<Result>(
  note: (command: FinishedCommand) => void,
  act: () => Promise<Result>,
): Promise<Result> {
  return await scopes.run(note, act);
}

/** For whoever runs programs: notes one for the phase that runs, if any does. */
export function noteCommand(command: FinishedCommand): void {
  scopes.getStore()?.(command);
}
