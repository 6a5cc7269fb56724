import type { Clock } from "@hostler/shared/clock.ts";

export interface ClockOffset {
  /** This host's time minus the server's: negative when this host is behind. */
  readonly offsetMs: number;
  /** It is off by at most this. */
  readonly uncertaintyMs: number;
}

const SAMPLES_MAX = 10;
const PAUSE_MS = 120;
/** No new sample after this: a slow way makes them long, and the first one already tells a second. */
const MEASURE_MS_MAX = 1500;
const GOOD_ENOUGH_MS = 300;
const DATE_RESOLUTION_MS = 1000;

/**
 * How far this host's clock is from a server's, by the Date of its answers. One answer leaves a second and the round trip
 * open; each further one narrows that, and the one after the server's second flips closes it to about the pause between two.
 * Ends at the first question without a Date in its answer, with what is known by then: null when it is the very first.
 */
export async function measureClock(clock: Clock, askDate: () => Promise<Date | null>): Promise<ClockOffset | null> {
  const startedMs = clock.monotonicMs();
  const neverAborted = new AbortController().signal;
  let bounds: Bounds | null = null;
  for (let sample = 0; sample < SAMPLES_MAX; sample += 1) {
    if (sample > 0 && clock.monotonicMs() - startedMs > MEASURE_MS_MAX) break;
    if (sample > 0) await clock.sleep(PAUSE_MS, neverAborted);
    const sentMs = clock.now().getTime();
    const date = await askDate();
    const receivedMs = clock.now().getTime();
    if (date === null) break;
    // The server's clock stood somewhere in this second while the request was under way.
    const seen = { lowMs: sentMs - date.getTime() - DATE_RESOLUTION_MS, highMs: receivedMs - date.getTime() };
    bounds = narrowed(bounds, seen);
    if (bounds.highMs - bounds.lowMs <= GOOD_ENOUGH_MS) break;
  }
  if (bounds === null) return null;
  return { offsetMs: (bounds.lowMs + bounds.highMs) / 2, uncertaintyMs: (bounds.highMs - bounds.lowMs) / 2 };
}

interface Bounds {
  readonly lowMs: number;
  readonly highMs: number;
}

function narrowed(before: Bounds | null, seen: Bounds): Bounds {
  if (before === null) return seen;
  const both = { lowMs: Math.max(before.lowMs, seen.lowMs), highMs: Math.min(before.highMs, seen.highMs) };
  // Nothing fits both when one of the clocks was set meanwhile: what is so now counts.
  return both.lowMs <= both.highMs ? both : seen;
}
