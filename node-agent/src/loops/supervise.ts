import { backoffMs } from "@hostler/shared/backoff.ts";
import { type Clock, isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import type { Log } from "../log.ts";

/** What a loop is doing, in one line; `hostler-agent status` prints it. */
export interface LoopStatus {
  readonly name: string;
  readonly text: string;
  /** RFC 3339. */
  readonly since: string;
}

export interface Loop {
  readonly name: string;
  /** Runs until the signal aborts. Returning or throwing before that is a crash. */
  run(setStatus: (text: string) => void, signal: AbortSignal): Promise<void>;
}

export interface SupervisedLoop {
  readonly status: LoopStatus;
  /** Resolves when the loop has ended after its signal aborted. Never rejects. */
  readonly ended: Promise<void>;
}

const RESTART = { firstMs: 500, maxMs: 30_000 };
/** A loop that ran this long was well: its next crash is a new story. */
const WELL_AFTER_MS = 60_000;

/** Keeps a loop running: a crash is an error in the log and a new start after a wait. Slices never notice. */
export function superviseLoop(
  deps: { readonly clock: Clock; readonly log: Log; readonly random: () => number },
  loop: Loop,
  signal: AbortSignal,
): SupervisedLoop {
  const statusOf = (text: string): LoopStatus => ({ name: loop.name, text, since: deps.clock.now().toISOString() });
  let status = statusOf("starting");
  const setStatus = (text: string): void => {
    if (text !== status.text) status = statusOf(text);
  };
  const keepRunning = async (): Promise<void> => {
    for (let crashes = 1; !signal.aborted; crashes += 1) {
      const startedAtMs = deps.clock.monotonicMs();
      try {
        await loop.run(setStatus, signal);
        if (!signal.aborted) throw new Error("The loop returned although nobody stopped it.");
      } catch (error) {
        if (isAborted(error, signal)) break;
        if (deps.clock.monotonicMs() - startedAtMs > WELL_AFTER_MS) crashes = 1;
        deps.log.error({ loop: loop.name, crashes, error: describeError(error) }, "loop crashed, restarting");
        setStatus(`crashed: ${describeError(error)}`);
        await deps.clock
          .sleep(backoffMs(RESTART, crashes, deps.random), signal)
          .catch(() => "The loop sees the signal.");
      }
    }
    setStatus("stopped");
  };
  return {
    get status() {
      return status;
    },
    ended: keepRunning(),
  };
}
