import type { Clock } from "@hostler/shared/clock.ts";
import type { Randomness } from "./randomness.ts";
import type { Actor, Scheduler } from "./scheduler.ts";

/** When every world begins. */
const EPOCH_MS = Date.UTC(2030, 0, 1);

export const wallTimeOf = (virtualMs: number): Date => new Date(EPOCH_MS + virtualMs);

/** The clock of one process. Its wall may jump; its monotonic time runs a little fast or slow and begins anywhere. */
export interface ActorClock extends Clock {
  /** How far its wall clock is off. */
  offsetMs: number;
}

export function makeActorClock(
  scheduler: Scheduler,
  actor: Actor,
  options: { readonly random: Randomness; readonly rate?: number; readonly offsetMs?: number },
): ActorClock {
  const { random, rate = 1 } = options;
  const originMs = random.whole(0, 1_000_000);
  const clock: ActorClock = {
    offsetMs: options.offsetMs ?? 0,
    now: () => wallTimeOf(Math.floor(scheduler.nowMs) + clock.offsetMs),
    monotonicMs: () => originMs + scheduler.nowMs * rate,
    sleep: async (ms, signal) => await sleep(scheduler, actor, { ms: ms / rate + random.between(0, 2), signal }),
    fillRandom: random.fill,
  };
  return clock;
}

/**
 * The same clock for a loop whose timers come late, as on a busy machine, by a factor. It also bounds what idle rounds cost: a loop
 * that looks every 250 ms is most of the work of a quiet world.
 */
export function lateClock(clock: Clock, factor: number): Clock {
  return { ...clock, sleep: async (ms, signal) => await clock.sleep(ms * factor, signal) };
}

async function sleep(
  scheduler: Scheduler,
  actor: Actor,
  options: { readonly ms: number; readonly signal: AbortSignal },
): Promise<void> {
  const { ms, signal } = options;
  signal.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const timer = scheduler.after(ms, actor, () => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    });
    const onAbort = (): void => {
      timer.cancel();
      reject(signal.reason);
    };
    signal.addEventListener("abort", onAbort, { once: true });
  });
}
