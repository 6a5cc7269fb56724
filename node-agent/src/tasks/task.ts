import type { TaskClaims } from "@hostler/shared/tasks.ts";
import type { Outcome } from "../journal/model.ts";
import type { SliceReference } from "../ports/slice-driver.ts";
import type { NewEvent } from "../runner/run-phases.ts";

/** A verified task in the hands of its handler. */
export interface GrantedTask {
  readonly claims: TaskClaims;
  /** Not wanted any more: undo and say `cancelled`. */
  readonly cancel: AbortSignal;
  /** Stop where it stands; another grant goes on from the journal. */
  readonly stop: AbortSignal;
  readonly assertHeld: () => void;
  readonly emit: (event: NewEvent) => void;
}

/** How a task ended on this host. */
export interface Conclusion {
  readonly outcome: Outcome;
  /** The slice that is gone from this host: its journal goes once the outcome is safe in the outbox. */
  readonly closes: SliceReference | null;
}

/**
 * A failure before any phase touched the host: nothing to undo. `isUntouched`: nothing was ever done here for what the task is
 * about, not under an earlier grant either.
 */
export function refusal(
  failure: { readonly code: string; readonly phase: string | null; readonly message: string },
  isUntouched: boolean,
): Conclusion {
  return {
    closes: null,
    outcome: {
      outcome: "failed",
      facts: { untouched: isUntouched },
      failure: { ...failure, class: "permanent", message: failure.message.slice(0, 4000), leftovers: [] },
    },
  };
}
