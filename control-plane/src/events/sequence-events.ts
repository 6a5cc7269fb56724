import { isAborted } from "@hostler/shared/clock.ts";
import { describeError } from "@hostler/shared/errors.ts";
import { isDatabaseAway } from "../db/pool.ts";
import { inTransaction } from "../db/transaction.ts";
import { EVENTS_TOPIC, EVERYTHING, projectEventsTopic } from "../db/wake-bus.ts";
import type { Deps } from "../deps.ts";
import { hasUnsequenced, sequenceBatch, sequenceRestored, trySequencerLock, type SearchDepth } from "./store.ts";

const BATCH_MAX = 10_000;
/** Not every change sends a hint: look so often without one. */
const RECHECK_MS = 50;
/** Another replica is at it with a snapshot that may lack our event. */
const BUSY_RETRY_MS = 20;
const FAILED_RETRY_MS = 1000;
/**
 * Under load a round looks at every event since the oldest open transaction: it takes a fifth of a connection and no more. Most hints
 * are of something else than events: after looks in vain the next one takes twice as long, up to the time that it takes without hints.
 */
const PAUSE = { perRoundMs: 4, maxMs: 100, inVainMs: 2 };

function pauseMs(round: { readonly tookMs: number; readonly inVain: number }): number {
  const inVainMs = round.inVain === 0 ? 0 : PAUSE.inVainMs * 2 ** Math.min(round.inVain, 10);
  return Math.max(Math.min(PAUSE.maxMs, round.tookMs * PAUSE.perRoundMs), Math.min(RECHECK_MS, inVainMs));
}

/**
 * Gives committed events their positions and wakes whoever waits for them. Runs on every replica: a replica is the first to hear
 * of its own commits, and the lock lets one work at a time. While nothing happens a round is one look into an index.
 */
export async function runEventSequencer(
  deps: Pick<Deps, "sql" | "clock" | "log" | "wake">,
  options: { readonly signal: AbortSignal; onStatus(status: string): void },
): Promise<void> {
  const { signal } = options;
  let hasRebased = false;
  let depth: SearchDepth = "ever";
  let isHinted = false;
  /** Looks in a row that a hint asked for and that found nothing. */
  let inVain = 0;
  while (!signal.aborted) {
    try {
      hasRebased ||= await rebase(deps);
      const beganMs = deps.clock.monotonicMs();
      const count = await sequenceEvents(deps, depth);
      const tookMs = deps.clock.monotonicMs() - beganMs;
      if (count === 0) depth = "lately";
      inVain = count === 0 && isHinted ? inVain + 1 : 0;
      options.onStatus(count === null ? "another replica places events" : "events are placed");
      if (count === null) await deps.clock.sleep(BUSY_RETRY_MS, signal);
      else if (count < BATCH_MAX) {
        // Begun before the pause, so that what is woken meanwhile is seen right after it.
        const woken = deps.wake.wait(EVERYTHING, RECHECK_MS, signal);
        woken.catch(() => "thrown where it is awaited");
        await deps.clock.sleep(pauseMs({ tookMs, inVain }), signal);
        isHinted = (await woken) !== "time";
      }
    } catch (error) {
      if (isAborted(error, signal)) return;
      depth = "ever";
      // It may have been restored before it came back.
      hasRebased = false;
      if (!isDatabaseAway(error)) deps.log.error({ err: error }, "events were not placed");
      options.onStatus(`waiting: ${describeError(error)}`);
      await deps.clock.sleep(FAILED_RETRY_MS, signal).catch((abort: unknown) => {
        if (!isAborted(abort, signal)) throw abort;
      });
    }
  }
}

/** Places what can be placed, at most one batch; null when another replica is at it. May run any number of times, anywhere. */
export async function sequenceEvents(
  deps: Pick<Deps, "sql" | "wake">,
  depth: SearchDepth = "lately",
): Promise<number | null> {
  if (!(await hasUnsequenced(deps.sql, depth))) return 0;
  const batch = await inTransaction(deps.sql, async (tx) =>
    (await trySequencerLock(tx)) ? await sequenceBatch(tx, BATCH_MAX, depth) : null,
  );
  if (batch === null) return null;
  if (batch.count > 0) deps.wake.wake(EVENTS_TOPIC);
  for (const projectId of batch.projectIds) if (projectId !== null) deps.wake.wake(projectEventsTopic(projectId));
  return batch.count;
}

async function rebase(deps: Pick<Deps, "sql">): Promise<boolean> {
  return await inTransaction(deps.sql, async (tx) => {
    const isMine = await trySequencerLock(tx);
    if (isMine) await sequenceRestored(tx);
    return isMine;
  });
}
