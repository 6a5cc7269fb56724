/** As many things alive at once, or as many new ones a second; nothing more with 0 of both. */
export interface Pace {
  readonly atOnce: number;
  readonly perSecond: number;
  /** Asked for together. */
  readonly gangSize: number;
  /** How long a thing is kept before it is given back. */
  readonly keptMs: number;
}

export const NO_PACE: Pace = { atOnce: 0, perSecond: 0, gangSize: 1, keptMs: 0 };

const TICK_MS = 10;
const NO_ROOM_PAUSE_MS = 50;
/** Requests that wait for their answer at once. */
const ASKING_MAX = 12;
/** After a stall so many gangs are caught up with, and no more. */
const CATCH_UP_GANGS_MAX = 20;

/** Asks in gangs, for good, in the pace of the moment. */
export function keepPace(options: {
  pace(): Pace;
  /** Made and not ended yet. */
  alive(): number;
  /** False: there was no room. */
  create(gangSize: number): Promise<boolean>;
  onTrouble(what: string): void;
}): void {
  let asking = 0;
  let due = 0;
  let lastMs = performance.now();
  const ask = async (gangSize: number): Promise<void> => {
    asking += 1;
    try {
      if (!(await options.create(gangSize))) await new Promise((resolve) => setTimeout(resolve, NO_ROOM_PAUSE_MS));
    } catch (error) {
      options.onTrouble(String(error));
    } finally {
      asking -= 1;
    }
  };
  setInterval(() => {
    const { atOnce, perSecond, gangSize } = options.pace();
    const nowMs = performance.now();
    due = Math.min(due + ((nowMs - lastMs) / 1000) * perSecond, CATCH_UP_GANGS_MAX * gangSize);
    lastMs = nowMs;
    while (asking < ASKING_MAX && options.alive() + (asking + 1) * gangSize <= atOnce) void ask(gangSize);
    for (; due >= gangSize; due -= gangSize) void ask(gangSize);
  }, TICK_MS);
}
