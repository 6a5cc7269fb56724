import type { Clock } from "@hostler/shared/clock.ts";
import type { Logger } from "pino";
import { isDatabaseAway } from "./pool.ts";
import type { Sql } from "./sql.ts";

/**
 * Lets requests wait while the database is away, instead of sending thousands of hosts round in circles: to everybody else such a
 * request is one that was slow on the wire. One look-out for the replica finds that the database is back.
 */
export interface Outages {
  /**
   * Looks, and while the database is away waits and looks again. Rejects with the last failure when `withinMs` is over, when who
   * asked is gone, or when the replica closes. Only for what may be done twice: a look that fails may have been done.
   */
  sitOut<Found>(look: () => Promise<Found>, limits: Patience): Promise<Found>;
}

export interface Patience {
  readonly withinMs: number;
  /** Aborts when who asked is gone; asked for only when there is something to wait for. */
  gone(): AbortSignal;
}

/** Also the pause before the next look, when it was one connection that broke and not the database that went. */
const LOOK_OUT_MS = 50;
/** Those that waited go on in portions, the longest first: what comes meanwhile is served between them. */
const PORTION = 100;
const PORTION_EVERY_MS = 10;

/** When `closing` aborts, nobody waits any more. */
export function watchOutages(deps: {
  readonly sql: Sql;
  readonly clock: Clock;
  readonly log: Logger;
  readonly closing: AbortSignal;
}): Outages {
  const { sql, clock, log, closing } = deps;
  /** In the order in which they came; each is called once, with whether it may look again. */
  let waiting = new Set<(mayLook: boolean) => void>();
  let isLookingOut = false;
  closing.addEventListener("abort", () => {
    for (const resolve of waiting) resolve(false);
  });

  const isBack = async (): Promise<boolean> => {
    try {
      await sql`select 1`;
      return true;
    } catch (error) {
      // Whatever else is wrong, those who wait find it out for themselves.
      if (!isDatabaseAway(error)) log.error({ err: error }, "look-out for the database failed");
      return !isDatabaseAway(error);
    }
  };
  const letGo = async (): Promise<void> => {
    const returning = [...waiting];
    waiting = new Set();
    log.info({ requests: returning.length }, "the database is back, requests that waited go on");
    for (let from = 0; from < returning.length; from += PORTION) {
      for (const resolve of returning.slice(from, from + PORTION)) resolve(true);
      await clock.sleep(PORTION_EVERY_MS, never);
    }
  };
  const lookOut = async (): Promise<void> => {
    isLookingOut = true;
    while (waiting.size > 0) {
      await clock.sleep(LOOK_OUT_MS, never);
      if (await isBack()) await letGo();
    }
    isLookingOut = false;
  };
  /** Resolves with whether there is a reason to look again. */
  const wait = async (timeoutMs: number, gone: AbortSignal): Promise<boolean> => {
    if (gone.aborted || closing.aborted) return false;
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const over = new AbortController();
    const leave = (): void => resolve(false);
    waiting.add(resolve);
    gone.addEventListener("abort", leave, { once: true });
    clock.sleep(timeoutMs, over.signal).then(leave, () => "it was let go before");
    if (!isLookingOut) void lookOut();
    try {
      return await promise;
    } finally {
      waiting.delete(resolve);
      gone.removeEventListener("abort", leave);
      over.abort(LET_GO);
    }
  };

  return {
    sitOut: async (look, { withinMs, gone }) => {
      const untilMs = clock.monotonicMs() + withinMs;
      for (;;) {
        try {
          return await look();
        } catch (error) {
          const leftMs = untilMs - clock.monotonicMs();
          if (!isDatabaseAway(error) || leftMs <= 0 || !(await wait(leftMs, gone()))) throw error;
        }
      }
    },
  };
}

const never = new AbortController().signal;
const LET_GO = new Error("let go");
